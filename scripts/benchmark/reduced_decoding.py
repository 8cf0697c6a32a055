"""Compare reduced decoding of large JPEGs with exact decoding: the boxes, the accuracy, the CPU time and the memory.

python -m scripts.benchmark.reduced_decoding PHOTOGRAPHS -m path/to/yolov8n.pt      compare, and print tables
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import psutil

from scripts.benchmark.mosaics import mosaic
from scripts.benchmark.pictures import photographs
from scripts.codes import dataset
from scripts.codes.evaluation import average_precision
from scripts.codes.scenes import Scene, Truth
from scripts.codes.score import Guess, iou
from serve_app.config import DetectArgs, ModelArgs
from serve_app.images.decode import decode, decode_reduced
from serve_app.images.letterbox import fit, pad, place
from serve_app.images.map_back import to_picture
from serve_app.images.reduced import place_reduced
from serve_app.models.engines import Engine
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.types import DetectOptions, InputShape, Letterbox, Pixels

MARGINS = (1.0, 1.5, 2.0)
SHAPE = InputShape.square(640)
MOSAICS_PX = ((1280, 960), (1920, 1440), (2592, 1944), (3264, 2448), (4000, 3000))
_MAX_PIXELS = 50_000_000
_QUALITY = 92
_MIN_CONFIDENCE = 0.01  # low, because average precision also needs uncertain detections
_THRESHOLD, _MIN_IOU, _TOLERANCE = 0.5, 0.9, 0.03  # when two boxes agree
_LARGEST_PX = 4000, 3000

Decoder = Callable[[bytes, Pixels], Letterbox]


def main() -> None:
    """Parse the command line, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark.reduced_decoding", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("photographs", type=Path, help="a folder of JPEGs, of which mosaics are made")
    parser.add_argument("-m", "--model", type=Path, required=True, help="a model that knows the photographs' objects")
    parser.add_argument("--mosaics", type=int, default=20, help="mosaics of each size (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="generated images of codes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="random seed (default: %(default)s)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    engine = load(ModelArgs(weights=options.model, engine="openvino", precision="fp32"), has_gpu=False)
    tiles = [tile(engine, data) for data in photographs(options.photographs)]
    ways = decoders()
    print(f"| | {' | '.join(ways)} |")
    largest = mosaic(tiles, _LARGEST_PX, np.random.default_rng(options.seed)).pixels
    for name, flags in (("baseline", []), ("progressive", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])):
        print(cost(name, jpeg(largest, *flags)), flush=True)
    for size_px in MOSAICS_PX:
        rng = np.random.default_rng([options.seed, *size_px])
        mosaics = (mosaic(tiles, size_px, rng) for _ in range(options.mosaics))
        print(comparison(engine, "mosaics of {}×{}".format(*size_px), mosaics), flush=True)
    engine = load(ModelArgs(weights=Path("codes"), engine="openvino", precision="fp32"), has_gpu=False)
    print(comparison(engine, "codes", (scene(options.seed, index) for index in range(options.scenes))))


def decoders() -> dict[str, Decoder]:
    """Return the ways of decoding that are compared. Each writes the model input, and returns the image's position."""

    def exact(data: bytes, frame: Pixels) -> Letterbox:
        return place(decode(data, _MAX_PIXELS), [SHAPE], lambda _: frame)

    def reduced(margin: float) -> Decoder:
        return lambda data, frame: place_reduced(
            decode_reduced(data, _MAX_PIXELS, SHAPE, margin), [SHAPE], lambda _: frame
        )

    def averaged(data: bytes, frame: Pixels) -> Letterbox:
        pixels = decode(data, _MAX_PIXELS)
        fitted = fit(pixels.shape[1], pixels.shape[0], SHAPE)
        inner = pad(frame, fitted)
        inner[:] = cv2.resize(pixels, inner.shape[1::-1], interpolation=cv2.INTER_AREA)
        return fitted

    return {"exact": exact, **{f"margin {margin:g}": reduced(margin) for margin in MARGINS}, "averaged": averaged}


def jpeg(pixels: Pixels, *flags: int, quality: int = _QUALITY) -> bytes:
    """Encode an image as cameras do, with chroma at half the resolution."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling, *flags])[1].tobytes()


def tile(engine: Engine, data: bytes) -> Scene:
    """Return a photograph with its clear detections, which serve as the truth where the photograph is a small part."""
    found = detect(engine, decoders()["exact"], data)
    truths = [Truth(guess.label, "", guess.box) for guess in found if guess.confidence > _THRESHOLD]
    return Scene(decode(data, _MAX_PIXELS), tuple(truths))


def detect(engine: Engine, decoder: Decoder, data: bytes) -> list[Guess]:
    """Return all detections in an image, also the uncertain ones."""
    slot = np.empty(SHAPE.array, np.uint8)
    fitted = decoder(data, slot)
    (raw,) = engine.infer([slot])
    options = DetectOptions(**DetectArgs(confidence=_MIN_CONFIDENCE).model_dump())
    detections = to_picture(to_detections(raw, engine.info, options), fitted)
    labels = engine.info.labels
    return [
        Guess(labels[class_id], confidence, (float(x1), float(y1), float(x2), float(y2)))
        for (x1, y1, x2, y2), confidence, class_id in detections
    ]


def agreeing(some: list[Guess], others: list[Guess]) -> tuple[int, int]:
    """Return how many detections of ``some`` above the threshold are also in ``others``, and how many there are."""
    clear = [guess for guess in some if guess.confidence > _THRESHOLD]
    same = sum(any(_is_same(guess, other) for other in others) for guess in clear)
    return same, len(clear)


def _is_same(some: Guess, other: Guess) -> bool:
    return (
        some.label == other.label
        and abs(some.confidence - other.confidence) <= _TOLERANCE
        and iou(some.box, other.box) >= _MIN_IOU
    )


def comparison(engine: Engine, name: str, scenes: Iterator[Scene]) -> str:
    """Return a row for a set of images.

    A cell has the share of clear detections that are the same as with exact decoding, and the mAP50-95.
    """
    ways = decoders()
    truths: list[tuple[Truth, ...]] = []
    guesses: dict[str, list[list[Guess]]] = {way: [] for way in ways}
    counts = {way: np.zeros(2, int) for way in ways}
    for made in scenes:
        data = jpeg(made.pixels)
        truths.append(made.truths)
        found = {way: detect(engine, decoder, data) for way, decoder in ways.items()}
        for way, some in found.items():
            guesses[way].append(some)
            counts[way] += np.add(agreeing(some, found["exact"]), agreeing(found["exact"], some))
    labels = sorted({truth.label for some in truths for truth in some})
    cells = []
    for way, (same, total) in counts.items():
        _, map50_95 = average_precision(truths, guesses[way], labels)
        cells.append(f"{same / max(total, 1):.3f}, {map50_95['all']:.3f}")
    return f"| {name} ({sum(map(len, truths))} objects) | {' | '.join(cells)} |"


def scene(seed: int, index: int) -> Scene:
    """Generate a scene of 4000×3000 pixels: the middle of a square scene. Codes with their centre outside are cut."""
    width, height = _LARGEST_PX
    top = (width - height) // 2
    whole = dataset.scene(seed, dataset.TEST, index, width)
    truths = []
    for truth in whole.truths:
        x1, y1, x2, y2 = truth.box
        if top <= (y1 + y2) / 2 < top + height:
            truths.append(Truth(truth.label, truth.payload, (x1, max(y1 - top, 0), x2, min(y2 - top, height))))
    return Scene(whole.pixels[top : top + height], tuple(truths))


def cost(name: str, data: bytes) -> str:
    """Return a row with the CPU time and the memory of decoding an image and fitting it into the model input."""
    frame = np.empty(SHAPE.array, np.uint8)
    took_ms: dict[str, list[float]] = {way: [] for way in decoders()}
    for _ in range(15):  # the ways alternate, because the machine's speed changes
        for way, decoder in decoders().items():
            started_s = time.process_time()
            decoder(data, frame)
            took_ms[way].append((time.process_time() - started_s) * 1e3)
    exact_ms = statistics.median(took_ms["exact"])
    cells = []
    for way, times_ms in took_ms.items():
        ms = statistics.median(times_ms)
        cells.append(f"{ms:.0f} ms, {ms / exact_ms:.2f}, {_peak_mib(data, way):.0f} MiB")
    return f"| {name}, {len(data) / 1e6:.1f} MB | {' | '.join(cells)} |"


def _peak_mib(data: bytes, way: str) -> float:
    """Return by how much the memory of a new process grows while it decodes an image."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_grown_mib, data, way).result()


def _grown_mib(data: bytes, way: str) -> float:
    frame = np.zeros(SHAPE.array, np.uint8)
    decoder = decoders()[way]
    decoder(jpeg(np.zeros((64, 64, 3), np.uint8)), frame)  # loads the libraries
    before_mib: float = psutil.Process().memory_info().rss / 2**20
    decoder(data, frame)
    # ru_maxrss would be wrong, because a new process inherits it from its parent.
    peak_kib = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak_kib is not None
    return int(peak_kib[1]) / 1024 - before_mib


if __name__ == "__main__":
    main()

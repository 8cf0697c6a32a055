"""The cameras of the trial: images whose features are measured once, by day and by night, in brighter and dimmer light.

Generated scenes of codes are always used, with their exact boxes as detections. If the folder ../shared exists beside
the repository, its videos and photographs are used, too, with the detections of YOLOv8n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scripts.codes import samples
from scripts.codes.scenes import Scene, random_scene
from scripts.codes.surfaces import HELD_OUT, TRAINING
from scripts.codes.symbols import LABELS
from scripts.launch import ROOT
from serve_app.config import DetectArgs, ModelArgs
from serve_app.detections import Detections
from serve_app.drift.features import Look, look_of
from serve_app.images.decode import decode
from serve_app.images.letterbox import place
from serve_app.images.map_back import to_picture
from serve_app.models.load import load
from serve_app.models.tasks import to_detections
from serve_app.types import Answer, DetectOptions, InputShape, Pixels, Timing

SHARED = ROOT.parent / "shared"
_MODEL = SHARED / "weights/yolov8n_int8_openvino_model"
_SHAPES = [InputShape(384, 640), InputShape(480, 640), InputShape.square(640)]
_LIGHT = (0.85, 1.0, 1.15)  # the dimmer, the usual and the brighter light of a day
_NIGHT = 0.22
_NIGHT_NOISE = 6.0  # standard deviation
_SCENE_PX = 640
_MAX_PIXELS = 50_000_000
_CROP_SHARE = 0.7  # of the sides of a photograph

Rng = np.random.Generator
Detect = Callable[[Pixels, int, bool], Detections]  # the pixels, the number of the image, whether it is night


@dataclass(frozen=True)
class Shown:
    """What is measured of one image."""

    look: Look
    answer: Answer


@dataclass(frozen=True)
class Camera:
    """A camera's images in order. ``day`` and ``night`` have the same images once for each light in ``_LIGHT``."""

    name: str
    labels: tuple[str, ...]
    day: list[list[Shown]]
    night: list[list[Shown]]


def cameras(images: int, seed: int, *, real: bool) -> list[Camera]:
    """Return all cameras with ``images`` images each. ``real``: also use ../shared."""
    made = [
        _of_scenes("parcels", [samples.picture(number) for number in range(images)], seed),
        _of_scenes("belt", [samples.belt_frame(9 * number) for number in range(images)], seed),
    ]
    for name, look in (("codes", TRAINING), ("other codes", HELD_OUT)):
        scenes = [random_scene(np.random.default_rng([seed, number]), look, _SCENE_PX) for number in range(images)]
        made.append(_of_scenes(name, scenes, seed))
    if real and _MODEL.exists():
        detect, labels = _yolo()
        for path in sorted((SHARED / "videos").glob("*.mp4")):
            frames = [pixels for pixels in _frames(path, 2 * images) if len(detect(pixels, 0, False))]
            made.append(_measured(path.stem, labels, frames[:images], detect, seed))
        photographs = list(_crops(SHARED / "images", images, seed))
        made.append(_measured("photographs", labels, photographs, detect, seed))
    return made


def _of_scenes(name: str, scenes: list[Scene], seed: int) -> Camera:
    rng = np.random.default_rng([seed, 1])
    confidences = [rng.beta(8, 2, len(scene.truths)) for scene in scenes]
    kept_at_night = [rng.random(len(scene.truths)) < 0.75 for scene in scenes]

    def detect(_: Pixels, number: int, is_night: bool) -> Detections:
        truths = scenes[number].truths
        boxes = np.array([truth.box for truth in truths], np.float32).reshape(-1, 4)
        classes = np.array([LABELS.index(truth.label) for truth in truths], np.int32)
        kept = kept_at_night[number] if is_night else np.ones(len(truths), bool)
        confidence = (confidences[number] * (0.85 if is_night else 1)).astype(np.float32)
        return Detections(boxes[kept], confidence[kept], classes[kept])

    return _measured(name, tuple(LABELS), [scene.pixels for scene in scenes], detect, seed)


def _measured(name: str, labels: tuple[str, ...], pictures: list[Pixels], detect: Detect, seed: int) -> Camera:
    rng = np.random.default_rng([seed, 2])
    by_light: dict[bool, list[list[Shown]]] = {False: [], True: []}
    for is_night, shown in by_light.items():
        taken = [_at_night(pixels, rng) if is_night else pixels for pixels in pictures]
        found = [detect(pixels, number, is_night) for number, pixels in enumerate(taken)]
        for light in _LIGHT:
            lit = (cv2.convertScaleAbs(pixels, alpha=light) for pixels in taken)
            shown.append([_show(pixels, labels, one) for pixels, one in zip(lit, found, strict=True)])
    return Camera(name, labels, by_light[False], by_light[True])


def _show(pixels: Pixels, labels: tuple[str, ...], found: Detections) -> Shown:
    memory = np.empty(_SHAPES[-1].nbytes, np.uint8)
    frames: list[Pixels] = []

    def frame_of(shape: InputShape) -> Pixels:
        frames.append(memory[: shape.nbytes].reshape(shape.array))
        return frames[0]

    fitted = place(pixels, _SHAPES, frame_of)
    height_px, width_px = pixels.shape[:2]
    answer = Answer(found.labelled(labels), width_px, height_px, "trial", 1, Timing(), fitted.input_shape)
    return Shown(look_of(frames[0], fitted), answer)


def _at_night(pixels: Pixels, rng: Rng) -> Pixels:
    """Return the image with little light and the noise of a sensor at high gain."""
    noise = rng.normal(0, _NIGHT_NOISE, (*pixels.shape[:2], 1)).astype(np.float32)
    dark: NDArray[np.uint8] = np.clip(pixels * np.float32(_NIGHT) + noise, 0, 255).astype(np.uint8)
    return dark


def _yolo() -> tuple[Detect, tuple[str, ...]]:
    engine = load(ModelArgs(weights=_MODEL, engine="openvino"), has_gpu=False)
    options = DetectOptions(**DetectArgs().model_dump())
    slot = np.empty(engine.info.input_shape.array, np.uint8)

    def detect(pixels: Pixels, _: int, __: bool) -> Detections:
        fitted = place(pixels, [engine.info.input_shape], lambda _: slot)
        (raw,) = engine.infer([slot])
        return to_picture(to_detections(raw, engine.info, options), fitted)

    return detect, engine.info.labels


def _frames(path: Path, count: int) -> Iterator[Pixels]:
    video = cv2.VideoCapture(str(path))
    try:
        step = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // count, 1)
        number = 0
        while number < count * step and video.grab():
            if number % step == 0:
                yield video.retrieve()[1]
            number += 1
    finally:
        video.release()


def _crops(folder: Path, count: int, seed: int) -> Iterator[Pixels]:
    """Yield random parts of photographs, which are the images that different clients send."""
    rng = np.random.default_rng([seed, 3])
    photographs = [decode(path.read_bytes(), _MAX_PIXELS) for path in sorted(folder.glob("*.jpg"))]
    for _ in range(count):
        whole = photographs[rng.integers(len(photographs))]
        height, width = (int(side * rng.uniform(_CROP_SHARE, 1)) for side in whole.shape[:2])
        y, x = rng.integers(whole.shape[0] - height + 1), rng.integers(whole.shape[1] - width + 1)
        yield np.ascontiguousarray(whole[y : y + height, x : x + width])

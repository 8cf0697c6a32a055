"""Compare an engine with the plain network in fp32, for each shape.

On a GPU, the engine computes in fp16 and replays CUDA graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from scripts.benchmark.pictures import photographs
from scripts.gpu_day.stage import Plan, Record
from serve_app.config import ModelArgs
from serve_app.images.letterbox import letterbox
from serve_app.models.agreement import CONFIDENCE_TOLERANCE, THRESHOLD, agree
from serve_app.models.checkpoint.convert import without_pickle
from serve_app.models.engines import Engine
from serve_app.models.engines.device import to_input, to_rows
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.tasks import to_detections
from serve_app.models.weights import find_weights
from serve_app.types import DetectOptions, EngineInfo, InputShape, Pixels

_OPTIONS = DetectOptions(confidence=THRESHOLD - CONFIDENCE_TOLERANCE, iou=0.7, max_detections=300)
_CONFIDENT_ROWS = 100  # the rows of each image whose numbers are compared


def compare(plan: Plan, record: Record, args: ModelArgs, engine: Engine) -> None:
    """Add, for each shape and two batch sizes, how far the numbers are apart and how many images agree."""
    # The drawn scenes contain what the embedded model finds.
    encoded = photographs(Path(plan.pictures)) if plan.pictures else photographs(None, "4:3")
    encoded = encoded[: 2 if plan.is_small else 16]
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in encoded]
    network = _plain_network(plan, args)
    for shape in engine.info.shapes[-2:] if plan.is_small else engine.info.shapes:
        inputs = [_letterboxed(pixels, shape) for pixels in pictures if pixels is not None]
        expected = [_expected(plan, network, one, len(engine.info.labels)) for one in inputs]
        for size in (1, plan.batch_sizes[-1]):
            batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
            found = [raw[0].copy() for batch in batches for raw in engine.infer(batch)]
            record.add(
                part="parity", shape=str(shape), batch_size=size, pictures=len(inputs),
                **_compared(found, expected, engine.info),
            )  # fmt: skip


def _plain_network(plan: Plan, args: ModelArgs) -> Any:
    """Return the network in fp32, without graphs, on the engine's device."""
    if plan.has_gpu:  # otherwise, the GPU would compute in TF32, whose results are less exact
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    weights = find_weights(args, "torch")
    folder = plan.folder / "plain"
    folder.mkdir(exist_ok=True)
    network, _ = load_network(without_pickle(weights, args.weights_sha256, folder))
    return network.fuse(verbose=False).eval().to("cuda" if plan.has_gpu else "cpu")


def _letterboxed(pixels: Pixels, shape: InputShape) -> Pixels:
    model_input = np.empty(shape.array, np.uint8)
    letterbox(pixels, model_input)
    return model_input


def _expected(plan: Plan, network: Any, model_input: Pixels, classes: int) -> NDArray[np.float32]:
    """Return the rows of results for one model input: see ``device.to_rows``."""
    with torch.inference_mode():
        frames = torch.from_numpy(model_input[None]).to("cuda" if plan.has_gpu else "cpu")
        output = network(to_input(frames, torch.float32))
        raw = output[0] if isinstance(output, (list, tuple)) else output
        rows: NDArray[np.float32] = (raw if raw.shape[-1] == 6 else to_rows(raw, classes))[0].float().cpu().numpy()
        return rows


def _compared(
    found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]], info: EngineInfo
) -> dict[str, float]:
    """Return the largest differences of the most confident rows, and the share of images whose detections agree."""
    confidence = box_px = highest = 0.0
    agreeing = detections = 0
    for ours, theirs in zip(found, expected, strict=True):
        kept = np.argsort(-theirs[:, 4])[:_CONFIDENT_ROWS]
        highest = max(highest, float(theirs[kept, 4].max()))
        confidence = max(confidence, float(np.abs(ours[kept, 4] - theirs[kept, 4]).max()))
        box_px = max(box_px, float(np.abs(ours[kept, :4] - theirs[kept, :4]).max()))
        pair = [to_detections((rows,), info, _OPTIONS) for rows in (ours, theirs)]
        agreeing += agree(*pair)
        detections += int((pair[1].confidence > THRESHOLD).sum())
    return {
        "highest_confidence": round(highest, 5),
        "largest_confidence_difference": round(confidence, 5),
        "largest_box_difference_px": round(box_px, 3),
        "detections": detections,
        "share_of_images_that_agree": agreeing / len(found),
    }

"""The images that a job writes besides its results, as functions that can also run in another process."""

from __future__ import annotations

from collections.abc import Collection

from serve_app.detections import Detections
from serve_app.images.decode import decode
from serve_app.images.drawing import crop, draw, encode_jpeg
from serve_app.jobs.outputs import PictureKind
from serve_app.types import Pixels


def render(
    pixels: Pixels, detections: Detections, item: int, wanted: Collection[PictureKind]
) -> list[tuple[str, bytes]]:
    """Return the names and the bytes of an item's annotated image and of its crops. This draws on ``pixels``."""
    files = []
    if "crops" in wanted:
        for index, (box, _, _) in enumerate(detections):
            files.append((f"crops/{item:09d}-{index:03d}.jpg", encode_jpeg(crop(pixels, box))))
    if "annotated" in wanted:
        files.append((f"annotated/{item:09d}.jpg", encode_jpeg(draw(pixels, detections))))
    return files


def render_encoded(
    data: bytes, max_pixels: int, detections: Detections, item: int, wanted: Collection[PictureKind]
) -> list[tuple[str, bytes]]:
    """Decode an image, and return what ``render`` returns."""
    return render(decode(data, max_pixels), detections, item, wanted)


def show(data: bytes, max_pixels: int, detections: Detections | None) -> bytes:
    """Return an encoded image as a JPEG, with the boxes of ``detections`` drawn."""
    return show_pixels(decode(data, max_pixels), detections)


def show_pixels(pixels: Pixels, detections: Detections | None) -> bytes:
    """Return an image as a JPEG, with the boxes of ``detections`` drawn. This draws on ``pixels``."""
    return encode_jpeg(pixels if detections is None else draw(pixels, detections))

"""Map the results for an image from the model input back to the image.

The arithmetic is that of Ultralytics' ``scale_boxes``, ``scale_coords`` and ``scale_masks`` (8.4), so our results equal
those of Ultralytics to the pixel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve_app.detections import Detections, Mask
from serve_app.images.rotated_boxes import hull_of
from serve_app.types import Letterbox


def to_picture(detections: Detections, fitted: Letterbox) -> Detections:
    """Return the detections in pixels of the original image.

    Boxes and keypoints are clipped to the image's edges. The part of a mask in the padding is removed. Rotated boxes
    are not clipped, because they would no longer be rectangles. Their upright hulls are clipped.
    """
    pad = np.array([fitted.pad_x_px, fitted.pad_y_px], np.float32)
    scale_x, scale_y = fitted.inner_width_px / fitted.width_px, fitted.inner_height_px / fitted.height_px
    scale = np.array([scale_x, scale_y], np.float32)
    limit = np.array([fitted.width_px, fitted.height_px], np.float32)

    def mapped(points: NDArray[np.float32]) -> NDArray[np.float32]:
        inside: NDArray[np.float32] = np.clip((points - pad) / scale, 0, limit)
        return inside

    corners, keypoints, rotated = detections.xyxy.reshape(-1, 2, 2), detections.keypoints, detections.rotated
    if keypoints is not None:
        keypoints = np.concatenate([mapped(keypoints[..., :2]), keypoints[..., 2:]], axis=-1)
    xyxy = mapped(corners).reshape(-1, 4)
    if rotated is not None:
        centre, size = (rotated[:, :2] - pad) / scale, rotated[:, 2:4] / scale
        rotated = np.concatenate([centre, size, rotated[:, 4:]], axis=1)
        xyxy = np.clip(hull_of(rotated).reshape(-1, 2, 2), 0, limit).reshape(-1, 4)
    masks = detections.masks and tuple(_mapped_mask(mask, fitted) for mask in detections.masks)
    return replace(detections, xyxy=xyxy, keypoints=keypoints, rotated=rotated, masks=masks)


def _mapped_mask(mask: Mask, fitted: Letterbox) -> Mask:
    """Return a mask whose rectangle is in pixels of the image.

    A mask in a model input covers whole pixels of it, so the part in the padding is cut off without interpolation. If
    nothing is left, one pixel remains, in which there is no object.
    """
    left, top, right, bottom = (int(side) for side in mask.xyxy)
    x, y = fitted.pad_x_px, fitted.pad_y_px
    columns = range(max(left, x), min(right, x + fitted.inner_width_px))
    rows = range(max(top, y), min(bottom, y + fitted.inner_height_px))
    bits = mask.bits[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if not columns or not rows:
        columns = _first_pixel(columns, x, fitted.inner_width_px)
        rows = _first_pixel(rows, y, fitted.inner_height_px)
        bits = np.zeros((1, 1), bool)
    scale_x, scale_y = fitted.width_px / fitted.inner_width_px, fitted.height_px / fitted.inner_height_px
    x1, x2 = (columns.start - x) * scale_x, (columns.stop - x) * scale_x
    y1, y2 = (rows.start - y) * scale_y, (rows.stop - y) * scale_y
    return Mask(bits, (x1, y1, x2, y2))


def _first_pixel(pixels: range, start: int, count: int) -> range:
    """Return the range of one pixel that is nearest to ``pixels``, among ``count`` pixels from ``start`` on."""
    first = min(max(pixels.start, start), start + count - 1)
    return range(first, first + 1)

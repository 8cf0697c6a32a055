"""Map boxes from the model input back to the image.

The arithmetic is that of Ultralytics' ``scale_boxes`` (8.4), so our boxes equal those of Ultralytics to the pixel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serve_app.detections import Detections
from serve_app.types import Letterbox


def to_picture(detections: Detections, fitted: Letterbox) -> Detections:
    """Return the detections in pixels of the original image, clipped to the image's edges."""
    pad = np.array([fitted.pad_x_px, fitted.pad_y_px] * 2, np.float32)
    scale_x, scale_y = fitted.inner_width_px / fitted.width_px, fitted.inner_height_px / fitted.height_px
    scale = np.array([scale_x, scale_y] * 2, np.float32)
    limit = np.array([fitted.width_px, fitted.height_px] * 2, np.float32)
    return replace(detections, xyxy=np.clip((detections.xyxy - pad) / scale, 0, limit))

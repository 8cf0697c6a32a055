"""A decoder that is killed by one image. A process of its own imports this module, which must therefore be small."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from serve_app.config import JpegDecoding
from serve_app.images.decode import decode
from serve_app.images.prepare import prepare_new
from serve_app.types import Fitting, InputShape, Letterbox, Pixels

DEADLY_WIDTH_PX = 21


def prepare_or_die(
    data: bytes, max_pixels: int, decoding: JpegDecoding, shapes: Sequence[InputShape], fitting: Fitting
) -> tuple[Letterbox, float, Pixels]:
    """Prepare an image as ``prepare_new`` does, but kill this process if the image is ``DEADLY_WIDTH_PX`` wide."""
    if decode(data, max_pixels).shape[1] == DEADLY_WIDTH_PX:
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare_new(data, max_pixels, decoding, shapes, fitting)

"""Convert every supported kind of image to the bytes that the client sends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from serve_app.client.png import encode_png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage

    Picture: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8] | PilImage
else:
    Picture = Any  # so that typing.get_type_hints works without numpy and PIL


def to_bytes(picture: Picture) -> bytes:
    """Return an encoded image. Files and bytes stay unchanged. Arrays and PIL images become lossless PNGs.

    Raise TypeError if the argument is not an image or has more than 8 bits per channel, ValueError if an array has no
    pixels, and OSError if a file cannot be read.
    """
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if _is_a(picture, "numpy", "ndarray"):
        return _of_array(picture)
    if _is_a(picture, "PIL.Image", "Image"):
        return _of_pil(picture)
    raise TypeError(
        "image: expected a path, the bytes of an image file, a numpy array or a PIL image, "
        f"but got {type(picture).__name__}"
    )


def several(pictures: Iterable[Picture]) -> list[Picture]:
    """Return the images as a list. Raise TypeError if the argument is a single image."""
    if (
        isinstance(pictures, (str, os.PathLike, bytes, bytearray, memoryview))
        or _is_a(pictures, "PIL.Image", "Image")
        or (_is_a(pictures, "numpy", "ndarray") and getattr(pictures, "ndim", 0) < 4)
    ):
        raise TypeError(
            f"images: detect_many takes a list of images, but got one {type(pictures).__name__}; use detect for "
            "a single image"
        )
    return list(pictures)


def _is_a(picture: object, module: str, name: str) -> bool:
    """Return whether ``picture`` is an instance of this class, without importing the class.

    If the module is not loaded, no instance of the class can exist.
    """
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(picture, getattr(loaded, name))


def _of_array(pixels: Any) -> bytes:
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != "uint8" or not is_picture:
        raise TypeError(
            "image: an array must be uint8 and either BGR (height, width, 3) or grey (height, width), "
            f"but got {pixels.dtype} {pixels.shape}"
        )
    if not pixels.size:
        raise ValueError(f"image: the array has no pixels (its shape is {pixels.shape}); check how it was loaded")
    return encode_png(pixels)


def _of_pil(image: Any) -> bytes:
    """Return a PIL image as a PNG. The EXIF orientation is left out, so boxes refer to the caller's pixels."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise TypeError(
            f"image: a PIL image must have 8 bits per channel, but got mode {image.mode}; scale and convert it"
        )
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()

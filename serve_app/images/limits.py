"""Limits on the cost of decoding an image, and the errors for images that cannot be decoded."""

from __future__ import annotations

from serve_app.errors import TooLarge, Undecodable

MAX_PARTS = 65_536  # segments, chunks or tiles; a file of 32 MiB with parts of 512 bytes has this many


def check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    """Raise Undecodable when the size is not positive, and TooLarge when it exceeds ``max_pixels``."""
    if width_px <= 0 or height_px <= 0:
        raise unreadable_header()
    if width_px * height_px > max_pixels:
        megapixels = width_px * height_px / 1e6
        raise TooLarge(
            f"limits.max_megapixels: the image has {megapixels:.1f} megapixels, and the limit is "
            f"{max_pixels / 1e6:g}; send a smaller image or raise the limit",
            limit="limits.max_megapixels",
        )


def unreadable_header() -> Undecodable:
    """Return the error for an image whose header is invalid."""
    return Undecodable("the image's header is truncated, corrupt or of an unsupported kind")


def unsupported(what: str) -> Undecodable:
    """Return the error for an intact image of an unsupported kind. ``what`` names this kind."""
    return Undecodable(f"this is {what}, which is not supported; save it as an ordinary JPEG or PNG")

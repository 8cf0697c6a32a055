"""What a picture may cost: its size is checked before it is decoded, and its parts are counted."""

from __future__ import annotations

from serve_app.errors import TooLarge, Undecodable

MAX_PARTS = 65_536  # segments, chunks, tiles: a file of 32 MiB whose parts have 512 bytes


def check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    """Raises Undecodable where there is no size, and TooLarge where it exceeds ``max_pixels``."""
    if width_px <= 0 or height_px <= 0:
        raise unread()
    if width_px * height_px > max_pixels:
        megapixels = width_px * height_px / 1e6
        raise TooLarge(
            f"limits.max_megapixels: the picture has {megapixels:.1f} megapixels, and the limit is "
            f"{max_pixels / 1e6:g}; send a smaller one or raise it",
            limit="limits.max_megapixels",
        )


def unread() -> Undecodable:
    """Return the error for a picture whose header makes no sense."""
    return Undecodable("the picture's header is truncated, corrupt or of a variant that is not read")


def variant(what: str) -> Undecodable:
    """Return the error for a picture that is sound, of a variant that is not read: ``what`` names it."""
    return Undecodable(f"this is {what}, which is not read; save it as an ordinary JPEG or PNG")

"""The first frame of a source, as an image."""

from __future__ import annotations

from serve_app.errors import SourceError, Undecodable
from serve_app.images.drawing import encode_jpeg
from serve_app.network.address_guard import AddressGuard
from serve_app.video.source import Source
from serve_app.video.video import open_video

_MAX_UNDECODABLE = 100  # a camera's video may begin between two key frames


def read_first_frame(source: Source, max_pixels: int, guard: AddressGuard) -> bytes:
    """Return the first frame of a source that can be decoded, as a JPEG. Raise SourceError as ``open_video`` does."""
    with open_video(source, max_pixels=max_pixels, guard=guard) as video:
        for number, (pixels, _) in enumerate(video):
            try:
                return encode_jpeg(pixels())
            except Undecodable:
                if number >= _MAX_UNDECODABLE:
                    break
    raise SourceError(f"{source.name} has no frame that can be decoded")

"""Selection of a container's video track."""

from __future__ import annotations

import av
from av.container import InputContainer
from av.stream import Disposition

from serve_app.errors import SourceError

# FFmpeg lists these as video tracks, too: a song's cover art, a film's thumbnails, a photograph stored with a video.
_STILL_IMAGES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def find_video(container: InputContainer, name: str) -> av.VideoStream:
    """Return the track that a player would show. Ignore covers, thumbnails and other still images.

    Prefer tracks with more than one frame, then the track that is marked as default, then the track with the most
    pixels. Raise SourceError if there is no video track, or none with a supported codec.
    """
    moving = [track for track in container.streams.video if not track.disposition & _STILL_IMAGES]
    found = max((track for track in moving if _is_decoded(track)), key=_rank, default=None)
    if found is not None:
        return found
    if moving:
        raise SourceError(f"{name} has video of a codec that is not supported")
    only = ", only still images such as a cover" if container.streams.video else ""
    raise SourceError(f"{name} has no video in it{only}")


def _is_decoded(track: av.VideoStream) -> bool:
    return getattr(track, "codec_context", None) is not None


def _rank(track: av.VideoStream) -> tuple[bool, bool, int]:
    """Return the sort key by which ``max`` selects the track."""
    is_default = bool(track.disposition & Disposition.default)
    return track.frames != 1, is_default, track.width * track.height

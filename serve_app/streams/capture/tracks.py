"""Which of a container's tracks is the video."""

from __future__ import annotations

import av
from av.container import InputContainer
from av.stream import Disposition

from serve_app.errors import SourceError

# FFmpeg takes all of these for video: a song's cover, a film's thumbnails, a photograph beside a video.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def find_video(container: InputContainer, name: str) -> av.VideoStream:
    """Return the track that a player shows: no cover, thumbnail or other still picture.

    Of several, one of more than one frame, then the one that is marked as the default, then the largest.
    Raises SourceError where there is none, or none of a codec that is read.
    """
    moving = [track for track in container.streams.video if not track.disposition & _PICTURES]
    found = max((track for track in moving if _is_decoded(track)), key=_rank, default=None)
    if found is not None:
        return found
    if moving:
        raise SourceError(f"{name} has video of a codec that is not read")
    only = ", only still pictures such as a cover" if container.streams.video else ""
    raise SourceError(f"{name} has no video in it{only}")


def _is_decoded(track: av.VideoStream) -> bool:
    return getattr(track, "codec_context", None) is not None


def _rank(track: av.VideoStream) -> tuple[bool, bool, int]:
    """``max`` takes the first of equals."""
    is_default = bool(track.disposition & Disposition.default)
    return track.frames != 1, is_default, track.width * track.height

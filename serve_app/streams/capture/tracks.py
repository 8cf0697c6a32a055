"""Which of a container's tracks is the video."""

from __future__ import annotations

import av
from av.container import InputContainer
from av.stream import Disposition

# FFmpeg takes all of these for video: a song's cover, a film's thumbnails, a photograph beside a video.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def find_video(container: InputContainer) -> av.VideoStream | None:
    """Return the track that a player shows, or None where there are only covers, thumbnails and other still pictures.

    Of several, the one that is marked as the default, then one of more than one frame, then the largest.
    """
    moving = [track for track in container.streams.video if not track.disposition & _PICTURES and _is_decoded(track)]
    return max(moving, key=_rank, default=None)


def _is_decoded(track: av.VideoStream) -> bool:
    return getattr(track, "codec_context", None) is not None


def _rank(track: av.VideoStream) -> tuple[bool, bool, int]:
    """``max`` takes the first of equals."""
    is_default = bool(track.disposition & Disposition.default)
    return track.frames != 1, is_default, track.width * track.height

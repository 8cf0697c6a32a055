"""Where frames come from: which sources are allowed, and how one is opened, read and closed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import cv2

from serve_app.errors import SourceError
from serve_app.types import Frame

_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 10_000
# The protocols that FFmpeg may use for a scheme; it would otherwise follow a playlist into local files.
_PROTOCOLS = {
    "file": "file",
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,tls,tcp",
}


@dataclass(frozen=True)
class Source:
    """A source that is allowed. ``uri`` may carry credentials: show ``name`` instead."""

    uri: str
    name: str
    scheme: str

    @property
    def is_live(self) -> bool:
        """It does not end: when it does, it is gone, and comes back."""
        return self.scheme != "file"


def parse_source(text: str, media_dirs: tuple[Path, ...]) -> Source:
    """A file below one of ``media_dirs``, or an ``http``, ``https``, ``rtsp`` or ``rtsps`` address.

    Raises SourceError.
    """
    try:
        text.encode()  # FFmpeg crashes on a name that is no UTF-8
        parts = urlsplit(text)
        if "://" in text and parts.scheme != "file":
            return _parse_address(text, parts)
        path = Path(unquote(parts.path) if parts.scheme == "file" else text).expanduser().resolve()
        is_allowed = any(path.is_relative_to(folder) for folder in media_dirs)
        is_file = path.is_file()
    except (ValueError, OSError, RuntimeError) as exc:
        raise SourceError("the source is no valid file name or address") from exc
    name = path.name if path.name.isprintable() else repr(path.name)
    if not is_allowed:
        raise SourceError(f"{name} is not below a folder of SERVE_APP_MEDIA_DIRS")
    if not is_file:
        raise SourceError(f"there is no file {name}")
    return Source(str(path), name, "file")


def _parse_address(text: str, parts: SplitResult) -> Source:
    """A camera's or a server's address. Its name shows neither credentials nor the path, which may hold some too."""
    if parts.scheme not in _PROTOCOLS or not parts.hostname:
        raise SourceError(f"a source is a file or one of {', '.join(s for s in _PROTOCOLS if s != 'file')}://…")
    if "@" in parts.path + parts.query + parts.fragment:
        raise SourceError("write / ? # and @ in a password as %2F %3F %23 and %40")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return Source(text, f"{parts.scheme}://{host}{port}/…", parts.scheme)


def frames(source: Source, *, at_own_pace: bool, first_id: int) -> Iterator[Frame]:
    """The source's frames until it ends; closed on every path.

    ``at_own_pace``: a file's frames come when a camera would have sent them, not as fast as they are taken.
    Raises SourceError when it cannot be opened or gives no frame at all.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"rtsp_transport;tcp|protocol_whitelist;{_PROTOCOLS[source.scheme]}"
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
    capture = cv2.VideoCapture(source.uri, cv2.CAP_FFMPEG, timeouts)
    try:
        if not capture.isOpened():
            raise SourceError(f"{source.name} cannot be opened as video")
        started_s = time.monotonic()
        frame_id = first_id
        while True:
            is_read, pixels = capture.read()
            if not is_read:
                break
            if at_own_pace:
                due_s = started_s + capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                time.sleep(max(0.0, due_s - time.monotonic()))
            yield Frame(pixels, frame_id, time.time())
            frame_id += 1
        if frame_id == first_id:
            raise SourceError(f"{source.name} has no frame that can be decoded")
    finally:
        capture.release()

"""Where frames come from: which sources are allowed, and how one is opened, read and closed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

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
    if "://" in text and not text.startswith("file://"):
        parts = urlsplit(text)
        scheme = parts.scheme.lower()
        if scheme not in _PROTOCOLS or not parts.hostname:
            raise SourceError(f"a source is a file or one of {', '.join(s for s in _PROTOCOLS if s != 'file')}://…")
        host = parts.netloc.rpartition("@")[2]
        return Source(text, urlunsplit((scheme, host, parts.path, "", "")), scheme)
    path = Path(text.removeprefix("file://")).expanduser().resolve()
    if not any(path.is_relative_to(folder) for folder in media_dirs):
        raise SourceError(f"{path.name} is not below a folder of SERVE_APP_MEDIA_DIRS")
    if not path.is_file():
        raise SourceError(f"there is no file {path.name}")
    return Source(str(path), path.name, "file")


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

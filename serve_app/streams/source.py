"""Which sources are allowed, and what they are called in public."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from serve_app.errors import SourceError

Kind = Literal["file", "folder", "device", "http", "https", "rtsp", "rtsps", "tcp", "udp"]
_ADDRESSES: dict[str, Kind] = {
    "http": "http",
    "https": "https",
    "rtsp": "rtsp",
    "rtsps": "rtsps",
    "tcp": "tcp",
    "udp": "udp",
}
_DEVICE = re.compile(r"/dev/video\d+")


@dataclass(frozen=True)
class Source:
    """A source that is allowed. ``uri`` may carry credentials: show ``name`` instead."""

    uri: str
    name: str
    kind: Kind

    @property
    def is_live(self) -> bool:
        """It does not end: when it does, it is gone, and comes back."""
        return self.kind not in {"file", "folder"}


def parse_source(text: str, media_dirs: tuple[Path, ...]) -> Source:
    """A file or a folder of pictures below one of ``media_dirs``, a camera at ``/dev/video…``, or an address.

    Raises SourceError.
    """
    try:
        text.encode()  # FFmpeg crashes on a name that is no UTF-8
        parts = urlsplit(text)
        if "://" in text and parts.scheme != "file":
            return _parse_address(text, parts)
        if _DEVICE.fullmatch(text):
            return Source(text, text, "device")
        path = Path(unquote(parts.path) if parts.scheme == "file" else text).expanduser().resolve()
        is_allowed = any(path.is_relative_to(folder) for folder in media_dirs)
        kind: Kind | None = "file" if path.is_file() else "folder" if path.is_dir() else None
    except (ValueError, OSError, RuntimeError) as exc:
        raise SourceError("the source is no valid file name or address") from exc
    name = path.name if path.name.isprintable() else repr(path.name)
    if not is_allowed or kind is None:
        name = name.rpartition("@")[2]  # it may be an address, mistyped, with a password
    if not is_allowed:
        raise SourceError(f"{name} is not below a folder of SERVE_APP_MEDIA_DIRS")
    if kind is None:
        raise SourceError(f"there is no file {name}")
    return Source(str(path), name, kind)


def _parse_address(text: str, parts: SplitResult) -> Source:
    """A camera's or a server's address. Its name shows neither credentials nor the path, which may hold some too."""
    if parts.scheme not in _ADDRESSES or not parts.hostname:
        raise SourceError(f"a source is a file, a folder, /dev/video… or one of {', '.join(_ADDRESSES)}://…")
    if "@" in parts.path + parts.query + parts.fragment:
        raise SourceError("write / ? # and @ in a password as %2F %3F %23 and %40")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return Source(text, f"{parts.scheme}://{host}{port}/…", _ADDRESSES[parts.scheme])

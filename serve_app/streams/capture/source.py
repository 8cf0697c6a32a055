"""Which sources are allowed, and what they are called in public."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
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
    root: Path | None = None  # the folder of media_dirs that a file is below
    tls_verify: bool = True  # of https and rtsps: a certificate that nobody here vouches for is refused

    @property
    def is_live(self) -> bool:
        """It does not end: when it does, it is gone, and comes back."""
        return self.kind not in {"file", "folder"}


def parse_source(text: str, media_dirs: tuple[Path, ...], *, tls_verify: bool = True) -> Source:
    """A file or a folder of pictures below one of ``media_dirs``, a camera at ``/dev/video…``, or an address.

    Raises SourceError.
    """
    try:
        text.encode()  # FFmpeg crashes on a name that is no UTF-8
        parts = urlsplit(text)
        if "://" in text and parts.scheme != "file":
            return _parse_address(text, parts, tls_verify)
        if _DEVICE.fullmatch(text):
            return Source(text, text, "device")
        typed = Path(unquote(parts.path) if parts.scheme == "file" else text)
        path = typed.resolve()
        # What is refused is called as it was typed: where a link leads is nobody's business. It may be an address,
        # mistyped, with a password.
        refused = _printable(typed.name).rpartition("@")[2] or "the source"
        root = next((folder for folder in media_dirs if path.is_relative_to(folder)), None)
        if root is None:  # said before the path is looked at: what there is elsewhere is nobody's business
            raise SourceError(f"{refused} is not below a folder of SERVE_APP_MEDIA_DIRS")
        kind: Kind | None = "file" if path.is_file() else "folder" if path.is_dir() else None
    except (ValueError, OSError, RuntimeError) as exc:
        raise SourceError("the source is no valid file name or address") from exc
    if kind is None:
        raise SourceError(f"there is no file {refused}")
    return Source(str(path), _printable(path.name), kind, root)


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


@contextmanager
def open_below(root: Path | None, path: Path) -> Iterator[BinaryIO]:
    """The file, if it lies below ``root`` now that it is open: a link on its path may have changed meanwhile.

    Raises OSError, SourceError.
    """
    with open(path, "rb", buffering=0, opener=_at_once) as file:
        real = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
        if root is None or not real.is_relative_to(root):
            raise SourceError("the file is not below a folder of SERVE_APP_MEDIA_DIRS any more")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SourceError("there is no file any more, but something else")
        yield file


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in a file's place would be waited for


def _parse_address(text: str, parts: SplitResult, tls_verify: bool) -> Source:
    """A camera's or a server's address. Its name shows neither credentials nor the path, which may hold some too."""
    if not text.isprintable():  # FFmpeg would send a line break on, and what follows as a line of its own
        raise SourceError("the source is no valid file name or address")
    if parts.scheme not in _ADDRESSES or not parts.hostname:
        raise SourceError(f"a source is a file, a folder, /dev/video… or one of {', '.join(_ADDRESSES)}://…")
    if "@" in parts.path + parts.query + parts.fragment:
        raise SourceError("write / ? # and @ in a password as %2F %3F %23 and %40")
    if parts.scheme in {"tcp", "udp"} and "?" in text:  # FFmpeg's: a port to listen at, a buffer of gigabytes
        raise SourceError(f"a {parts.scheme} source is {parts.scheme}://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return Source(text, f"{parts.scheme}://{host}{port}/…", _ADDRESSES[parts.scheme], tls_verify=tls_verify)

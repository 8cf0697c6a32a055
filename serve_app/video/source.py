"""Parsing of sources. Each source is checked, and gets a public name without secrets."""

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
    """An allowed source. ``uri`` may contain credentials; show ``name`` instead."""

    uri: str
    name: str
    kind: Kind
    root: Path | None = None  # the folder of media_dirs that contains the file
    tls_verify: bool = True  # whether untrusted certificates are refused (for https and rtsps)

    @property
    def is_live(self) -> bool:
        """Whether the source is neither a file nor a folder. A live source that ends is reopened."""
        return self.kind not in {"file", "folder"}


def parse_source(text: str, media_dirs: tuple[Path, ...], *, tls_verify: bool = True) -> Source:
    """Parse a source: a file or a folder of images below ``media_dirs``, a camera at ``/dev/video…``, or a URL.

    Raise SourceError if the source is not valid or not allowed.
    """
    try:
        text.encode()  # FFmpeg crashes on a name that cannot be encoded as UTF-8
        parts = urlsplit(text)
        if "://" in text and parts.scheme != "file":
            return _parse_address(text, parts, tls_verify)
        if _DEVICE.fullmatch(text):
            return Source(text, text, "device")
        typed = Path(unquote(parts.path) if parts.scheme == "file" else text)
        path = typed.resolve()
        # The error shows the name as the client typed it, because it must not reveal the target of a link. It omits
        # the part before an @, because a mistyped URL may contain a password.
        refused = _to_printable(typed.name).rpartition("@")[2] or "the source"
        root = next((folder for folder in media_dirs if path.is_relative_to(folder)), None)
        if root is None:  # checked first, because errors must not reveal which other files exist
            raise SourceError(
                f"{refused} is not below a folder of SERVE_APP_MEDIA_DIRS; move it into such a folder, or add its own "
                "folder to SERVE_APP_MEDIA_DIRS"
            )
        kind: Kind | None = "file" if path.is_file() else "folder" if path.is_dir() else None
    except (ValueError, OSError, RuntimeError) as exc:
        raise SourceError("source.uri is not a valid file name or URL") from exc
    if kind is None:
        raise SourceError(f"file {refused} does not exist")
    return Source(str(path), _to_printable(path.name), kind, root)


def _to_printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


@contextmanager
def open_below(root: Path | None, path: Path) -> Iterator[BinaryIO]:
    """Open a file for the duration of the ``with`` block, and check again that it is below ``root``.

    A link on its path may have changed since ``parse_source`` checked it.

    Raise OSError if the file cannot be opened, and SourceError if it is not allowed.
    """
    with open(path, "rb", buffering=0, opener=_open_nonblocking) as file:
        real = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
        if root is None or not real.is_relative_to(root):
            raise SourceError("the file is no longer below a folder of SERVE_APP_MEDIA_DIRS")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SourceError("the source is no longer a regular file")
        yield file


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # otherwise, opening a pipe would block


def _parse_address(text: str, parts: SplitResult, tls_verify: bool) -> Source:
    """Parse a URL. The source's name omits the credentials, and also the path, which may contain secrets."""
    if not text.isprintable():  # a line break could inject a header into FFmpeg's request
        raise SourceError("source.uri is not a valid file name or URL")
    if parts.scheme not in _ADDRESSES or not parts.hostname:
        raise SourceError(f"source.uri must be a file, a folder, /dev/video… or one of {', '.join(_ADDRESSES)}://…")
    if "@" in parts.path + parts.query + parts.fragment:
        raise SourceError("source.uri has an @ after the host; in a password, write / ? # and @ as %2F %3F %23 and %40")
    # FFmpeg would read options from the query, such as a port to listen on or a buffer size of gigabytes.
    if parts.scheme in {"tcp", "udp"} and "?" in text:
        raise SourceError(f"source.uri: a {parts.scheme} source must be {parts.scheme}://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return Source(text, f"{parts.scheme}://{host}{port}/…", _ADDRESSES[parts.scheme], tls_verify=tls_verify)

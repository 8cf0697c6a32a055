"""A folder of images as a source."""

from __future__ import annotations

import functools
from pathlib import Path, PurePath

from serve_app.errors import SourceError, Undecodable
from serve_app.images.decode import decode
from serve_app.types import Pixels, Position
from serve_app.video.pictures import Video
from serve_app.video.source import Source, open_below

# File name extensions of images. Unsupported formats are included, because the decoder then names the format in its
# error.
_ENDINGS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jps", ".insp", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif",
    ".tiff", ".gif", ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".dng",
}  # fmt: skip
_STILL_BRANDS = {b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")}
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8")


def open_folder(source: Source, max_pixels: int, after: Position | None) -> Video:
    """Return the folder's images after the position ``after``, sorted by file name.

    ``Video.passed_over`` counts the files that are not images. Raise SourceError if the folder has no image.
    """
    try:
        found = sorted(Path(source.uri).iterdir())
    except OSError as exc:
        raise SourceError(f"{source.name} cannot be listed: {exc.strerror}") from None
    paths = [path for path in found if _is_picture(path)]
    passed_over = len(found) - len(paths)
    if not paths:
        raise SourceError(f"{source.name} has no image in it; files of other kinds: {passed_over}")
    first = after.index + 1 if after else 0
    return Video(
        (
            (functools.partial(_read, source.root, paths[index], max_pixels), Position(index))
            for index in range(first, len(paths))
        ),
        has_end=True,
        pull_interval_s=0.0,
        passed_over=passed_over,
    )


def is_picture(data: bytes) -> bool:
    """Return whether a file's first bytes are those of a format that holds only images, not video."""
    is_bmp = data[:2] == b"BM" and data[6:10] == bytes(4)  # bytes 6 to 9 are reserved and must be 0
    return data.startswith(_FIRST_BYTES) or is_bmp or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def is_named_a_picture(path: PurePath) -> bool:
    """Return whether the file name has the extension of an image format."""
    return path.suffix.lower() in _ENDINGS


def is_still(data: bytes) -> bool:
    """Return whether a file's first bytes are those of HEIC, AVIF or JPEG 2000.

    FFmpeg would read parts of such images as videos.
    """
    return data[4:12] in _STILL_BRANDS or data.startswith(b"\0\0\0\x0cjP  ")


def _is_picture(path: Path) -> bool:
    """Return whether a file's name or first bytes show that it is an image.

    We check the bytes, too, because some cameras and downloads write no extension or an unusual one. We do not trust
    names like ``._name.jpg``, because macOS adds such files, which are not images, to memory cards.
    """
    if is_named_a_picture(path) and not path.name.startswith("._"):
        return not path.is_dir()
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(16)
            return is_picture(head) or is_still(head)
    except OSError:
        return False


def _read(root: Path | None, path: Path, max_pixels: int) -> Pixels:
    try:
        with open_below(root, path) as file:
            return decode(file.read(), max_pixels)
    except (OSError, SourceError) as exc:
        raise Undecodable("an image of the folder cannot be read") from exc

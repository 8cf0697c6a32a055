"""The images that the load generator sends: real photographs of mixed sizes, as JPEG."""

from __future__ import annotations

from pathlib import Path

import cv2

from scripts.codes.surfaces import HELD_OUT, TRAINING, package_files, read_photograph

_QUALITY = 90  # JPEG quality of re-encoded photographs


def save_photographs(source: Path | None, folder: Path) -> Path:
    """Delete all files in ``folder``, save ``photographs(source)`` there, and return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, data in enumerate(photographs(source)):
        (folder / f"{number:04}.jpg").write_bytes(data)
    return folder


def photographs(folder: Path | None) -> list[bytes]:
    """Return the JPEGs in ``folder``, or the photographs in installed packages if ``folder`` is None.

    Raise FileNotFoundError if the folder has no JPEGs.
    """
    if folder is None:
        pictures = [read_photograph(name) for name in TRAINING.photographs + HELD_OUT.photographs]
        encoded = [cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1] for pixels in pictures]
        return [
            *(data.tobytes() for data in encoded),
            *(path.read_bytes() for path in package_files("ultralytics/assets")),
        ]
    found = [path.read_bytes() for path in sorted(folder.glob("*.jp*g"))]
    if not found:
        raise FileNotFoundError(f"{folder} has no JPEG files: add some, or choose another folder")
    return found

"""The images that the load generator sends: real photographs of mixed sizes, as JPEG."""

from __future__ import annotations

from pathlib import Path

import cv2

from scripts.codes.surfaces import HELD_OUT, TRAINING, package_files, read_photograph

_QUALITY = 90  # for images that packages ship as PNG


def save_photographs(source: Path | None, folder: Path) -> Path:
    """Save the photographs in a folder, which is emptied first, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, data in enumerate(photographs(source)):
        (folder / f"{number:04}.jpg").write_bytes(data)
    return folder


def photographs(folder: Path | None) -> list[bytes]:
    """Return the JPEGs in a folder, or the photographs in packages. Raise FileNotFoundError if there are none."""
    if folder is None:
        pictures = [read_photograph(name) for name in TRAINING.photographs + HELD_OUT.photographs]
        encoded = [cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1] for pixels in pictures]
        return [
            *(data.tobytes() for data in encoded),
            *(path.read_bytes() for path in package_files("ultralytics/assets")),
        ]
    found = [path.read_bytes() for path in sorted(folder.glob("*.jp*g"))]
    if not found:
        raise FileNotFoundError(f"{folder} has no JPEG files")
    return found

"""Generate images and a video of parcels. The position and payload of every code are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from scripts.codes.scenes import Art, Box, Scene, Truth, corners_of, outline_of, paste, turned
from scripts.codes.surfaces import Picture, cardboard, cloudy, wood, write
from scripts.codes.symbols import LABELS, Symbol, data_matrix, linear_barcode, marker, qr_code

PICTURE_WIDTH_PX, PICTURE_HEIGHT_PX = 1280, 720
BELT_WIDTH_PX, BELT_HEIGHT_PX = 960, 540
BELT_FPS = 20
_BELT_STEP_PX = 7  # per frame
_PARCEL_PITCH_PX = 250
_SEED = 7


def picture(number: int) -> Scene:
    """Draw five parcels on a floor. The first parcel's QR code says ``image`` and the number, so all images differ."""
    rng = np.random.default_rng([_SEED, 0, number])
    pixels = wood(rng, PICTURE_WIDTH_PX, PICTURE_HEIGHT_PX)
    truths = []
    cells = rng.permutation(6)[:5]
    for index, cell in enumerate(cells):
        label = "qr_code" if index == 0 else LABELS[(number + index) % len(LABELS)]
        payload = f"image {number:06}" if index == 0 else f"{number:06}-{index}"
        symbol = _symbol(label, payload, 40 * number + index)
        centre = np.array([(cell % 3 + 0.5) * PICTURE_WIDTH_PX / 3, (cell // 3 + 0.5) * PICTURE_HEIGHT_PX / 2])
        angle = rng.uniform(-0.35, 0.35) if index == 0 else rng.uniform(0, 2 * np.pi)
        centre += rng.uniform(-40, 40, 2)
        truths.append(_place(pixels, _parcel(rng, symbol, 250), symbol, centre, angle))
    return Scene(pixels, tuple(filter(None, truths)))


def belt_frame(number: int) -> Scene:
    """Draw one frame of parcels on a belt, with a board whose QR code says ``frame`` and the number.

    The codes that are only partly in view are in the scene's ``cut``.
    """
    shift_px = number * _BELT_STEP_PX
    pixels = np.roll(_belt(), shift_px, axis=1)
    whole: list[Truth | None] = []
    cut: list[Truth] = []
    first = (shift_px - BELT_WIDTH_PX) // _PARCEL_PITCH_PX
    for parcel in range(first, shift_px // _PARCEL_PITCH_PX + 2):
        art, symbol = _belt_parcel(parcel + 100)
        rng = np.random.default_rng([_SEED, 1, parcel + 100])
        centre = np.array([shift_px - parcel * _PARCEL_PITCH_PX, BELT_HEIGHT_PX * 0.4 + rng.uniform(-40, 40)])
        truth = _place(pixels, art, symbol, centre, rng.normal(0, 0.12))
        if truth is None:
            continue
        x1, y1, x2, y2 = truth.box
        if x1 >= 0 and x2 <= BELT_WIDTH_PX:
            whole.append(truth)
        elif x2 > 0 and x1 < BELT_WIDTH_PX:
            cut.append(replace(truth, box=(max(x1, 0.0), y1, min(x2, float(BELT_WIDTH_PX)), y2)))
    board = qr_code(f"frame {number:06}")
    centre = np.array([BELT_WIDTH_PX / 2, BELT_HEIGHT_PX - 76])
    whole.append(_place(pixels, _sticker(board, 100), board, centre, 0.0))
    return Scene(pixels, tuple(filter(None, whole)), tuple(cut))


def save_video(path: Path, frames: Iterable[Scene]) -> Path:
    """Save the frames of the belt as an MPEG-4 video, or as lossless FFV1 if the file name ends in .avi."""
    pictures = (frame.pixels for frame in frames)
    return write_video(path, pictures, fps=BELT_FPS, size_px=(BELT_WIDTH_PX, BELT_HEIGHT_PX))


def write_video(path: Path, pictures: Iterable[Picture], *, fps: float, size_px: tuple[int, int]) -> Path:
    """Write images of size ``size_px`` (width, height) as a video. ``save_video`` describes the codecs."""
    codec = "FFV1" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size_px)
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path}: check that its folder is writable")
    for pixels in pictures:
        writer.write(pixels)
    writer.release()
    return path


def read_qr_codes(pixels: Picture, boxes: Iterable[Box], reader: cv2.QRCodeDetector) -> set[str]:
    """Return the payloads of all QR codes that OpenCV can read in the boxes."""
    payloads = set()
    for x1, y1, x2, y2 in boxes:
        margin = (x2 - x1) * 0.18  # the quiet zone
        rows = slice(max(int(y1 - margin), 0), int(y2 + margin))
        part = pixels[rows, max(int(x1 - margin), 0) : int(x2 + margin)]
        payloads |= {reader.detectAndDecode(cv2.resize(part, None, fx=scale, fy=scale))[0] for scale in (1, 2, 3)}
    return payloads - {""}


def _symbol(label: str, payload: str, number: int) -> Symbol:
    if label == "marker":
        return marker(number)
    kinds: dict[str, Callable[[str], Symbol]] = {
        "qr_code": qr_code,
        "data_matrix": data_matrix,
        "barcode": linear_barcode,
    }
    return kinds[label](payload)


@cache
def _belt() -> Picture:
    """Draw dark rubber with seams, between steel rails.

    The image can wrap around, because its left edge fits its right edge.
    """
    rng = np.random.default_rng([_SEED, 2])
    pixels = cloudy(rng, BELT_WIDTH_PX, BELT_HEIGHT_PX) // 4 + np.uint8(28)
    pixels[:, :: BELT_WIDTH_PX // 6] = 20
    pixels[:30] = pixels[-150:] = (120, 116, 112)
    return pixels


@cache
def _belt_parcel(number: int) -> tuple[Art, Symbol]:
    symbol = _symbol(LABELS[number % len(LABELS)], f"PARCEL-{number:04}", number)
    return _parcel(np.random.default_rng([_SEED, 3, number]), symbol, 190), symbol


def _parcel(rng: np.random.Generator, symbol: Symbol, side_px: int) -> Art:
    """Draw a cardboard box from above, with tape across it and a sticker with the code."""
    width, height = int(side_px * rng.uniform(1.0, 1.15)), int(side_px * rng.uniform(0.9, 1.05))
    pixels = cardboard(rng, width, height)
    tape = slice(height // 2 - 10, height // 2 + 10)
    pixels[tape] = pixels[tape] // 2 + np.array([60, 90, 105], np.uint8)
    sticker = _sticker(symbol, int(side_px * rng.uniform(0.42, 0.5)))
    rows, columns = sticker.pixels.shape[:2]
    x, y = int(rng.integers(4, max(width - columns - 4, 5))), int(rng.integers(4, max(height - rows - 4, 5)))
    room = pixels[y : y + rows, x : x + columns]
    room[:] = sticker.pixels[: room.shape[0], : room.shape[1]]
    return Art(pixels, sticker.outline + np.array([x, y], np.float32))


def _sticker(symbol: Symbol, code_px: int) -> Art:
    """Draw a white sticker with the code, its quiet zone, and its payload as text.

    The code is about ``code_px`` wide.
    """
    rows, columns = symbol.modules.shape
    module_px = max(round(code_px / columns), 1)
    width, height = columns * module_px, rows * module_px if rows > 1 else code_px // 2
    quiet = max(min(symbol.quiet_zone, 4) * module_px, 6)
    pixels = np.full((height + 2 * quiet + 12, width + 2 * quiet, 3), 245, np.uint8)
    code = cv2.resize(symbol.modules, (width, height), interpolation=cv2.INTER_NEAREST)
    pixels[quiet : quiet + height, quiet : quiet + width][code > 0] = 12
    write(pixels, symbol.payload, (quiet, height + 2 * quiet - 3), 11, np.full(3, 12, np.uint8), "DejaVuSansMono")
    return Art(pixels, outline_of(quiet, quiet, quiet + width, quiet + height))


def _place(pixels: Picture, art: Art, symbol: Symbol, centre: np.ndarray, angle: float) -> Truth | None:
    """Rotate the art by ``angle`` radians, and paste it. The art shows ``symbol``.

    Return None if the art is out of view.
    """
    height, width = art.pixels.shape[:2]
    box = paste(pixels, art, (turned(corners_of(width, height), angle) + centre).astype(np.float32))
    return Truth(symbol.label, symbol.payload, box) if box else None

"""Compare our decoder's pixels with Pillow's pixels, and with the true pixels of files whose true pixels are known."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import ImageOps

from scripts.trials.damage import damaged
from scripts.trials.field.pictures import bmp, jpeg, phones, png, tiff
from scripts.trials.field.pictures.scenes import JPEG, LOSSLESS, LOSSY, Pixels, Sample
from serve_app.errors import ServeAppError, TooLarge
from serve_app.images.decode import decode
from serve_app.images.isobmff import read_items

MAX_PIXELS = 1_000_000
_MOST = {LOSSLESS: 1, JPEG: 2, LOSSY: 8}  # largest allowed difference, in grey levels
_MEAN = {LOSSLESS: 1.0, JPEG: 2.0, LOSSY: 1.0}

# PILLOW_WRONG: our pixels are right, and Pillow's pixels differ.
# ONLY_OURS: we read the file, and cannot compare our pixels with Pillow's, usually because Pillow refuses the file.
# ONLY_OURS_WITH_LOSSES: Pillow refuses the damaged file, and our pixels differ from those of the intact file.
SAME, REFUSED, PILLOW_WRONG, DIFFERENT = "same", "refused", "Pillow wrong", "different"
ONLY_OURS, ONLY_OURS_WITH_LOSSES = "read by us alone", "read by us alone, with losses"
RESULTS = (SAME, REFUSED, PILLOW_WRONG, ONLY_OURS, ONLY_OURS_WITH_LOSSES, DIFFERENT)

FAMILIES: dict[str, Callable[[random.Random], Sample | None]] = {
    "JPEG": jpeg.sample,
    "PNG": png.sample,
    "TIFF": tiff.sample,
    "BMP": bmp.sample,
    "WebP": phones.webp,
    "GIF": phones.gif,
    "AVIF": phones.avif,
    "HEIC": phones.heic,
}
_WEIGHTS = {"JPEG": 6, "PNG": 5, "TIFF": 6, "BMP": 4, "WebP": 3, "GIF": 2, "AVIF": 2, "HEIC": 2}


@dataclass(frozen=True)
class Verdict:
    """The outcome of decoding a file with our decoder and with Pillow."""

    family: str
    name: str
    is_damaged: bool
    result: str
    remark: str = ""


def samples(
    seed: int, count: int, damage: float = 0.3, families: Sequence[str] = tuple(FAMILIES)
) -> list[tuple[str, bool, Sample]]:
    """Return random files, each with its family and whether it was damaged. The same seed gives the same files."""
    rng = random.Random(seed)
    weights = [_WEIGHTS[family] for family in families]
    made: list[tuple[str, bool, Sample]] = []
    while len(made) < count:
        (family,) = rng.choices(families, weights)
        sample = FAMILIES[family](rng)
        if sample is None:
            continue
        is_damaged = rng.random() < damage
        if is_damaged:
            other = made[-1][2].data if made else sample.data
            data = damaged(rng, sample.data, other)
            sample = replace(
                sample, data=data, whole=sample.data, truth=None, loss=JPEG if family == "JPEG" else sample.loss
            )
        made.append((family, is_damaged, sample))
    return made


def verdict(family: str, is_damaged: bool, sample: Sample) -> Verdict:
    """Decode a file with our decoder and with Pillow, and compare the results."""
    try:
        ours: Pixels = decode(sample.data, MAX_PIXELS)[:, :, ::-1]
    except ServeAppError as exc:
        is_wrong = not is_damaged and not isinstance(exc, TooLarge)
        return Verdict(family, sample.name, is_damaged, DIFFERENT if is_wrong else REFUSED, exc.detail)
    if sample.truth is not None and (remark := difference(ours, sample.truth, sample.loss)):
        return Verdict(family, sample.name, is_damaged, DIFFERENT, f"not the true pixels: {remark}")
    has_no_checksum = family in {"HEIC", "AVIF"}  # without checksums, decoders do not notice damaged data
    if has_no_checksum and sample.whole is not None and _stills(sample.data) != _stills(sample.whole):
        return Verdict(family, sample.name, is_damaged, ONLY_OURS, "its coded data are damaged")
    if not sample.is_for_pillow:
        return Verdict(family, sample.name, is_damaged, SAME if sample.truth is not None else ONLY_OURS)
    try:
        theirs = of_pillow(sample.data)
    except Exception as exc:  # Pillow's plugins raise errors of many types
        remark = f"{type(exc).__name__}: {exc}"
        if sample.whole is not None and (lost := difference(ours, _whole(sample.whole), sample.loss)):
            return Verdict(family, sample.name, is_damaged, ONLY_OURS_WITH_LOSSES, f"{lost}; Pillow: {remark}")
        return Verdict(family, sample.name, is_damaged, ONLY_OURS, remark)
    remark = difference(ours, theirs, sample.loss)
    is_right = sample.truth is not None or (
        sample.whole is not None and not difference(ours, _whole(sample.whole), sample.loss)
    )
    if remark and is_right:
        return Verdict(family, sample.name, is_damaged, PILLOW_WRONG, remark)
    return Verdict(family, sample.name, is_damaged, DIFFERENT if remark else SAME, remark)


def _stills(data: bytes) -> bytes:
    items = read_items(data)
    parts = [items[number] for number in (items.primary, *items[items.primary].made_of)]
    return b"".join(items.payload(item) for item in parts)


def _whole(data: bytes) -> Pixels:
    return decode(data, MAX_PIXELS)[:, :, ::-1]


def difference(ours: Pixels, theirs: Pixels, loss: str) -> str:
    """Return how much two images differ, or an empty string if they are close enough."""
    if ours.shape != theirs.shape:
        return f"{ours.shape[1]}×{ours.shape[0]} pixels, and should be {theirs.shape[1]}×{theirs.shape[0]}"
    apart = np.abs(ours.astype(np.int16) - theirs)
    if apart.max() > _MOST[loss] or apart.mean() > _MEAN[loss]:
        return f"differs by up to {apart.max()} grey levels, {apart.mean():.2f} on average"
    return ""


def of_pillow(data: bytes) -> Pixels:
    """Return the image as Pillow reads it: upright, without alpha, with 8 bits. Pillow's errors are not caught."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = phones.opened(data)
        image.load()
        try:
            image = ImageOps.exif_transpose(image)
        except (SyntaxError, ValueError, TypeError, KeyError, OSError):
            pass  # the EXIF data are broken, so the image counts as upright
        if image.mode.startswith("I;16") or image.mode == "I":
            values = np.asarray(image).astype(np.float64) / 257
            return np.repeat(np.rint(values)[:, :, None], 3, axis=2).astype(np.uint8)
        if image.mode in ("LA", "La"):
            image = image.getchannel(0)
        return np.asarray(image.convert("RGB"))

"""Draw backgrounds for codes. One ``Look`` is for training, and another is held out for tests."""

from __future__ import annotations

import importlib.util
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Rng = np.random.Generator
Picture = NDArray[np.uint8]  # (height, width, 3) BGR


@dataclass(frozen=True)
class Look:
    """The properties that differ between training and test images, so that the tests use unseen material."""

    photographs: tuple[str, ...]  # files as package/path; their licences are at the end of this module
    surfaces: tuple[Callable[[Rng, int, int], Picture], ...]
    fonts: tuple[str, ...]
    strength: float  # strength of all distortions
    largest: float  # width of the largest code, as a share of the image's width


def background(rng: Rng, look: Look, width: int, height: int) -> Picture:
    """Draw a part of a photograph, a blend of two such parts, a material, or a clutter of shapes."""
    kind = rng.random()
    if kind < 0.35:
        return photograph_part(rng, look, width, height)
    if kind < 0.5:  # blend two photographs, like a reflection in a window
        first, second = (photograph_part(rng, look, width, height) for _ in range(2))
        both: Picture = cv2.addWeighted(first, share := rng.uniform(0.3, 0.7), second, 1 - share, 0)
        return both
    surface = look.surfaces[rng.integers(len(look.surfaces))]
    return surface(rng, width, height)


def words(rng: Rng, characters: int) -> str:
    """Return a text of ``characters`` characters (at least 2), made of random words."""
    alphabet = list(string.ascii_uppercase + string.digits if rng.random() < 0.4 else string.ascii_lowercase)
    text = ""
    while len(text) < max(characters, 2):
        text += "".join(rng.choice(alphabet, rng.integers(2, 9))) + " "
    return text[: max(characters, 2)]


def write(picture: Picture, text: str, at: tuple[int, int], size_px: int, ink: Picture, font_name: str) -> None:
    """Write text into the image. ``at`` is the upper left corner of the text."""
    font = _font(font_name, max(size_px, 5))
    _left, _top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (max(int(right), 1), max(int(bottom), 1)))
    ImageDraw.Draw(mask).text((0, 0), text, 255, font)
    x, y = at
    room = picture[y : y + mask.height, x : x + mask.width]
    alpha = np.asarray(mask, np.float32)[: room.shape[0], : room.shape[1], None] / 255
    room[:] = room * (1 - alpha) + ink * alpha


def colour_pair(rng: Rng) -> tuple[Picture, Picture]:
    """Return a light and a dark colour with enough contrast for a code."""
    if rng.random() < 0.6:  # paper and black
        light = rng.uniform(205, 256) + rng.uniform(-12, 8, 3)
        dark = rng.uniform(0, 50) + rng.uniform(-8, 8, 3)
    else:  # two colours with enough contrast, as on cardboard or metal
        light = rng.uniform(110, 256) + rng.uniform(-60, 40, 3)
        dark = light * rng.uniform(0.1, 0.55) + rng.uniform(-15, 15, 3)
    return np.clip(light, 0, 255).astype(np.uint8), np.clip(dark, 0, 255).astype(np.uint8)


# --- photographs -----------------------------------------------------------------------------------------------------


def photograph_part(rng: Rng, look: Look, width: int, height: int) -> Picture:
    """Return a random part of a random photograph, at a random scale.

    Change the colours of the part in half of all calls.
    """
    photograph = read_photograph(str(rng.choice(look.photographs)))
    scale = max(width / photograph.shape[1], height / photograph.shape[0]) / rng.uniform(0.25, 1)
    size = max(int(photograph.shape[1] * scale) + 1, width), max(int(photograph.shape[0] * scale) + 1, height)
    photograph = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = rng.integers(size[0] - width + 1), rng.integers(size[1] - height + 1)
    part: Picture = photograph[y : y + height, x : x + width]
    part = part[:, ::-1].copy() if rng.random() < 0.5 else part.copy()
    if rng.random() < 0.5:  # change the colours, because there are few photographs
        part = np.clip(part * rng.uniform(0.6, 1.4, 3), 0, 255).astype(np.uint8)
    return part


@cache
def read_photograph(name: str) -> Picture:
    """Read an image of an installed package. ``name`` is package/path."""
    picture: Picture | None = cv2.imread(str(_installed(name)), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"{name} is missing or damaged: install the packages with scripts/env")
    return picture


def package_files(name: str) -> list[Path]:
    """Return the JPEGs in a folder of an installed package. ``name`` is package/path. The package is not imported."""
    return sorted(_installed(name).glob("*.jpg"))


def _installed(name: str) -> Path:
    package, _, path = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed: install the packages with scripts/env")
    return Path(spec.origin).parent / path


@cache
def _font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{name}.ttf"), size_px)


# --- materials -------------------------------------------------------------------------------------------------------


def _noise(rng: Rng, width: int, height: int, cell_px: float) -> NDArray[np.float32]:
    """Return smooth noise from 0 to 1, with spots that are about ``cell_px`` wide."""
    size = max(int(width / cell_px), 2), max(int(height / cell_px), 2)
    coarse = rng.random((size[1], size[0]), np.float32)
    fine: NDArray[np.float32] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return fine


def _colour(rng: Rng) -> NDArray[np.float32]:
    colour = rng.uniform(20, 240, 3)
    paler: NDArray[np.float32] = (colour.mean() + (colour - colour.mean()) * rng.random()).astype(np.float32)
    return paler  # less saturated, because most colours in real images are close to grey


def _tinted(texture: NDArray[np.float32], colour: NDArray[np.float32], contrast: float) -> Picture:
    return np.clip(colour * (1 + (texture[..., None] - 0.5) * contrast), 0, 255).astype(np.uint8)


def cloudy(rng: Rng, width: int, height: int) -> Picture:
    """Draw noise of several sizes, like plaster, stone or haze."""
    texture = sum(_noise(rng, width, height, cell) * weight for cell, weight in ((90, 0.5), (25, 0.3), (6, 0.2)))
    return _tinted(np.asarray(texture, np.float32), _colour(rng), rng.uniform(0.2, 1.4))


def cardboard(rng: Rng, width: int, height: int) -> Picture:
    """Draw brown board with fibres and visible flutes."""
    texture = 0.5 * _noise(rng, width, height, 3) + 0.3 * _noise(rng, width, height, 40)
    texture += 0.2 * (np.sin(np.arange(width) * rng.uniform(0.3, 1.2)) * 0.5 + 0.5).astype(np.float32)
    brown = np.array([90, 140, 185], np.float32) * rng.uniform(0.6, 1.25)
    return _tinted(texture, brown, rng.uniform(0.1, 0.4))


def gradient(rng: Rng, width: int, height: int) -> Picture:
    """Draw a gradient between two colours, like a wall or a screen."""
    across = np.linspace(0, 1, width, dtype=np.float32)[None] * rng.uniform(-1, 1)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] * rng.uniform(-1, 1)
    share = np.clip(across + down + rng.uniform(0, 1), 0, 1)[..., None]
    return (share * _colour(rng) + (1 - share) * _colour(rng)).astype(np.uint8)


def clutter(rng: Rng, width: int, height: int) -> Picture:
    """Draw random boxes, discs and lines, like shelves, tools and cables."""
    picture = cloudy(rng, width, height)
    for _ in range(rng.integers(8, 45)):
        colour = tuple(int(value) for value in _colour(rng))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        size = int(rng.uniform(0.02, 0.3) * width)
        shape = rng.integers(4)
        if shape == 0:
            box = cv2.boxPoints(((x, y), (size, size * rng.uniform(0.2, 2)), float(rng.uniform(0, 180))))
            cv2.fillConvexPoly(picture, box.astype(np.int32), colour, cv2.LINE_AA)
        elif shape == 1:
            cv2.circle(picture, (x, y), size // 2, colour, -1 if rng.random() < 0.6 else 2, cv2.LINE_AA)
        elif shape == 2:
            end = int(rng.integers(width)), int(rng.integers(height))
            cv2.line(picture, (x, y), end, colour, int(rng.integers(1, 7)), cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (x, y), (x + size, y + size // 2), colour, int(rng.integers(1, 5)))
    return picture


def wood(rng: Rng, width: int, height: int) -> Picture:
    """Draw planks with grain in one direction, and joints between the planks."""
    rings = _noise(rng, width, height, 120) * rng.uniform(10, 40) + np.arange(height, dtype=np.float32)[:, None] * 0.05
    texture = 0.5 + 0.4 * np.sin(rings) + 0.2 * _noise(rng, width, height, 4)
    picture = _tinted(texture.astype(np.float32), np.array([70, 120, 170], np.float32) * rng.uniform(0.5, 1.3), 0.5)
    for y in range(0, height, int(rng.integers(40, 140))):
        cv2.line(picture, (0, y), (width, y), (25, 35, 45), int(rng.integers(1, 4)))
    return picture


def brushed_metal(rng: Rng, width: int, height: int) -> Picture:
    """Draw fine lines in one direction, with a broad reflection."""
    lines = cv2.blur(rng.random((height, width), np.float32), (41, 1))
    shine = np.exp(-(((np.arange(width, dtype=np.float32) / width - rng.random()) / 0.3) ** 2))[None]
    grey = np.full(3, rng.uniform(90, 190), np.float32) * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return _tinted(0.3 + lines * 0.6 + 0.4 * shine, grey, 1.0)


def marble(rng: Rng, width: int, height: int) -> Picture:
    """Draw stone with veins."""
    veins = np.abs(_noise(rng, width, height, 70) - 0.5) + 0.4 * np.abs(_noise(rng, width, height, 20) - 0.5)
    return _tinted(np.clip(veins * 3, 0, 1).astype(np.float32), _colour(rng), rng.uniform(0.3, 0.9))


def slats(rng: Rng, width: int, height: int) -> Picture:
    """Draw wavy ridges, like roof tiles, blinds or folds. Unlike the bars of a barcode, the ridges have soft edges."""
    across = np.arange(width, dtype=np.float32)[None] / rng.uniform(4, 40)
    across = across + (_noise(rng, width, height, rng.uniform(30, 200)) - 0.5) * rng.uniform(0, 2)
    ridge = (0.5 + 0.5 * np.sin(2 * np.pi * across)) ** rng.uniform(0.4, 5)
    texture = ridge * (0.6 + 0.4 * _noise(rng, width, height, 25)) + 0.2 * _noise(rng, width, height, 4)
    return _tinted(texture, _colour(rng), rng.uniform(0.4, 1.8))


def railing(rng: Rng, width: int, height: int) -> Picture:
    """Draw thin posts in front of a background, like a balcony, a grille or masts."""
    picture = clutter(rng, width, height) if rng.random() < 0.5 else cloudy(rng, width, height)
    post, rail = ([int(value) for value in _colour(rng) * share] for share in (0.5, 0.4))
    step = rng.uniform(4, 30)
    thick = max(int(step * rng.uniform(0.1, 0.4)), 1)
    for number in range(int(width / step) + 1):
        x = int((number + rng.uniform(-0.15, 0.15)) * step)
        cv2.line(picture, (x, 0), (x + int(rng.uniform(-2, 3)), height), post, thick, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 3))):
        y = int(rng.integers(height))
        cv2.line(picture, (0, y), (width, y), rail, thick + 1, cv2.LINE_AA)
    return picture


# The photographs come from installed packages. All are in the public domain or CC0, except the two from scikit-learn.
# The contact sheet in scripts/codes/README.md shows parts of the held-out photographs and credits their authors.
TRAINING = Look(
    photographs=(
        "skimage/data/astronaut.png",  # NASA, public domain
        "skimage/data/brick.png",  # CC0 Textures
        "skimage/data/camera.png",  # CC0, Lav Varshney
        "skimage/data/clock_motion.png",  # CC0, Stefan van der Walt
        "skimage/data/moon.png",  # no known restrictions
        "skimage/data/chelsea.png",  # CC0, Stefan van der Walt
        "skimage/data/coffee.png",  # CC0, Rachel Michetti
        "skimage/data/gravel.png",  # CC0 Textures
        "skimage/data/rocket.jpg",  # CC0, SpaceX
        "skimage/data/text.png",  # Wikipedia, public domain
        "skimage/data/hubble_deep_field.jpg",  # NASA, public domain
    ),
    surfaces=(cloudy, cardboard, gradient, clutter, slats, railing),
    fonts=("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    strength=1.0,
    largest=0.95,
)
HELD_OUT = Look(
    photographs=(
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",  # US Navy, public domain
        "skimage/data/coins.png",  # Brooklyn Museum, no known restrictions
        "skimage/data/grass.png",  # CC0 Textures
        "sklearn/datasets/images/china.jpg",  # CC BY 2.0, danielbuechele, flickr.com/photos/danielbuechele/6061409035
        "sklearn/datasets/images/flower.jpg",  # CC BY 2.0, flickr.com/photos/vultilion/6056698931
    ),
    surfaces=(wood, brushed_metal, marble),
    fonts=("STIXGeneral", "STIXGeneralBol", "cmss10", "cmtt10", "cmr10"),
    strength=1.3,
    largest=0.66,
)

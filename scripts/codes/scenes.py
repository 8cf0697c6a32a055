"""Generate random images of codes on objects, with exact boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from scripts.codes.distractors import distractor
from scripts.codes.surfaces import Look, Picture, Rng, background, colour_pair, words, write
from scripts.codes.symbols import Symbol, random_symbol

_MIN_SIDE_PX = 9  # a code with a shorter side is not drawn
# The minimum number of pixels per module. A module is the smallest square or bar of a code. With fewer pixels, blur and
# noise turn a code into plain grey. Decoders need 2 px or more.
_MIN_MODULE_PX = {"qr_code": 1.5, "data_matrix": 1.5, "marker": 1.5, "barcode": 0.8}
_EDGE_POINTS = 9  # number of points on each side of a code; the exact box of a bent code is computed from them

Points = NDArray[np.float32]  # (count, 2), x and y
Box = tuple[float, float, float, float]  # x1, y1, x2, y2


@dataclass(frozen=True)
class Truth:
    """One code in an image. Its box, in pixels, surrounds the modules without the quiet zone."""

    label: str
    payload: str
    box: Box  # in random scenes, the box is clipped to the image

    @property
    def width_px(self) -> float:
        return self.box[2] - self.box[0]


@dataclass(frozen=True)
class Scene:
    """An image and the ground truth of every code in it."""

    pixels: Picture
    truths: tuple[Truth, ...]
    cut: tuple[Truth, ...] = ()  # codes that are cut off by the image's edge; they are not scored


@dataclass(frozen=True)
class Art:
    """A flat image to paste. ``outline`` has points around the code, and is empty if the image shows no code."""

    pixels: Picture
    outline: Points


def random_scene(rng: Rng, look: Look, size_px: int) -> Scene:
    """Draw a square image of up to six codes among distractors, as a poor camera would show them."""
    pixels = background(rng, look, size_px, size_px)
    taken: list[Box] = []
    truths: list[Truth] = []
    kind = rng.random()
    codes = 0 if kind < 0.3 else 1 if kind < 0.55 else int(rng.integers(2, 7))
    for _ in range(int(rng.integers(1, 6)) if codes == 0 else int(rng.integers(0, 4))):
        art = Art(
            distractor(rng, look, *(int(side) for side in rng.integers(24, 240, 2))), np.empty((0, 2), np.float32)
        )
        _paste_somewhere(rng, look, pixels, art, float(np.exp(rng.uniform(np.log(30), np.log(size_px)))), taken)
    for _ in range(codes):
        symbol = random_symbol(rng)
        widest = size_px * look.largest * (1 if codes == 1 else 0.5)
        width_px = float(np.exp(rng.uniform(np.log(11), np.log(widest))))
        if symbol.label == "barcode":
            width_px *= 1.5
        width_px = max(width_px, _MIN_MODULE_PX[symbol.label] * symbol.modules.shape[1])
        if width_px > widest:
            continue
        placed = _paste_somewhere(rng, look, pixels, print_label(rng, look, symbol, width_px), width_px, taken)
        if placed is None:
            continue
        if rng.random() < 0.15:
            _cover_a_part(rng, pixels, placed)
        truths.append(Truth(symbol.label, symbol.payload, placed))
    return Scene(_photographed(rng, pixels, look.strength), tuple(truths))


def print_label(rng: Rng, look: Look, symbol: Symbol, width_px: float) -> Art:
    """Draw the symbol on a label or an object, at about the resolution that the symbol has in the scene."""
    light, dark = colour_pair(rng)
    if symbol.label != "barcode" and rng.random() < 0.08:  # light modules on a dark background, as on a screen
        light, dark = dark, light
    rows, columns = symbol.modules.shape
    module_px = int(np.clip(np.ceil(1.3 * width_px / columns), 2, 12))
    height = rows if symbol.label != "barcode" else int(columns * rng.uniform(0.18, 0.8))
    modules = cv2.resize(symbol.modules, (columns * module_px, height * module_px), interpolation=cv2.INTER_NEAREST)
    if symbol.label == "data_matrix" and rng.random() < 0.15:  # separate dots, as if punched into metal
        cell = np.zeros((module_px, module_px), np.uint8)
        cv2.circle(cell, (module_px // 2, module_px // 2), max(module_px // 2 - 1, 1), 1, -1)
        modules = modules * np.tile(cell, (rows, columns))
    quiet = max(int(symbol.quiet_zone * rng.uniform(0.4, 1.2)), 1) * module_px
    margin = [int(quiet + rng.exponential(0.15) * modules.shape[1] * (rng.random() < 0.5)) for _ in range(4)]
    text_px = int(np.clip(modules.shape[1] * 0.09, 6, 60)) if rng.random() < 0.45 else 0
    left, top, right, bottom = (min(side, modules.shape[1]) for side in margin)
    bottom += text_px * 2
    pixels = np.full((modules.shape[0] + top + bottom, modules.shape[1] + left + right, 3), light, np.uint8)
    room = pixels[top : top + modules.shape[0], left : left + modules.shape[1]]
    room[modules > 0] = dark
    if text_px:
        text = symbol.payload if rng.random() < 0.6 else words(rng, 14)
        below = left, top + modules.shape[0] + text_px // 4
        write(pixels, text[:24], below, text_px, dark, str(rng.choice(look.fonts)))
    if rng.random() < 0.2:
        cv2.rectangle(pixels, (0, 0), (pixels.shape[1] - 1, pixels.shape[0] - 1), tuple(map(int, dark)), 2)
    return Art(pixels, outline_of(left, top, left + modules.shape[1], top + modules.shape[0]))


def outline_of(x1: float, y1: float, x2: float, y2: float) -> Points:
    along = np.linspace(0, 1, _EDGE_POINTS)
    xs, ys = x1 + (x2 - x1) * along, y1 + (y2 - y1) * along
    sides = [
        (xs, np.full_like(xs, y1)),
        (xs, np.full_like(xs, y2)),
        (np.full_like(ys, x1), ys),
        (np.full_like(ys, x2), ys),
    ]
    return np.concatenate([np.stack(side, 1) for side in sides]).astype(np.float32)


def bent(rng: Rng, art: Art, strength: float) -> Art:
    """Bend the art around a cylinder such as a bottle.

    Towards the sides, the art's columns become narrower. The art's rows become curved.
    """
    half_angle = rng.uniform(0.3, min(1.0 * strength, 1.25))
    bow_px = rng.uniform(-0.25, 0.25) * art.pixels.shape[0] * (1 - np.cos(half_angle))
    height, width = art.pixels.shape[:2]
    pad = int(abs(bow_px)) + 1
    xs = np.linspace(-1, 1, width, dtype=np.float32)
    angles = np.arcsin(xs * np.sin(half_angle))  # the cylinder's angle at each column of the view
    source_x = (angles / half_angle + 1) / 2 * (width - 1)
    lift = bow_px * (np.cos(angles) - np.cos(half_angle)) / (1 - np.cos(half_angle))
    ys = np.arange(height + 2 * pad, dtype=np.float32)[:, None] - pad
    map_x = np.broadcast_to(source_x, (height + 2 * pad, width)).astype(np.float32)
    edge = tuple(int(value) for value in art.pixels[0, 0])
    pixels = cv2.remap(art.pixels, map_x, (ys - lift[None]).astype(np.float32), cv2.INTER_LINEAR, borderValue=edge)
    pixels = (pixels * (0.55 + 0.45 * np.cos(angles))[None, :, None]).astype(np.uint8)
    if not len(art.outline):
        return replace(art, pixels=pixels)
    angle = (art.outline[:, 0] / (width - 1) * 2 - 1) * half_angle
    outline_x = (np.sin(angle) / np.sin(half_angle) + 1) / 2 * (width - 1)
    outline_y = art.outline[:, 1] + pad + bow_px * (np.cos(angle) - np.cos(half_angle)) / (1 - np.cos(half_angle))
    return Art(pixels, np.stack([outline_x, outline_y], 1).astype(np.float32))


def corners_of(width: float, height: float) -> NDArray[np.floating]:
    """Return the corners of a rectangle relative to its centre, clockwise from the upper left."""
    return np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2


def turned(points: NDArray[np.floating], angle: float) -> NDArray[np.floating]:
    """Rotate the points about the origin by ``angle`` radians."""
    moved: NDArray[np.floating] = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return moved


def _view(art: Art, quad: Points) -> NDArray[np.float64]:
    height, width = art.pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    view: NDArray[np.float64] = cv2.getPerspectiveTransform(corners, quad)
    return view


def paste(pixels: Picture, art: Art, quad: Points) -> Box | None:
    """Warp the art onto the corners ``quad``, which are given clockwise from the upper left.

    Return the box of the art's code. Return None if the art has no code or is out of view.
    """
    height, width = art.pixels.shape[:2]
    x, y = np.floor(quad.min(0)).astype(int)
    right, bottom = np.ceil(quad.max(0)).astype(int) + 1
    x, y, right, bottom = max(x, 0), max(y, 0), min(right, pixels.shape[1]), min(bottom, pixels.shape[0])
    if right <= x or bottom <= y:
        return None
    view = _view(art, quad - np.array([x, y], np.float32))
    size = right - x, bottom - y
    warped = cv2.warpPerspective(art.pixels, view, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpPerspective(np.full((height, width), 255, np.uint8), view, size, flags=cv2.INTER_LINEAR)
    share = alpha[..., None].astype(np.float32) / 255
    room = pixels[y:bottom, x:right]
    room[:] = (room * (1 - share) + warped * share).astype(np.uint8)
    if not len(art.outline):
        return None
    around = cv2.perspectiveTransform(art.outline[None], view)[0] + (x, y)
    (x1, y1), (x2, y2) = around.min(0), around.max(0)
    return float(x1), float(y1), float(x2), float(y2)


def _paste_somewhere(rng: Rng, look: Look, pixels: Picture, art: Art, width_px: float, taken: list[Box]) -> Box | None:
    """Paste the art into a free area. The art's code is ``width_px`` wide before perspective is applied.

    Return the box of the code. Return None if the art has no code, or if no free area was found.
    """
    if rng.random() < 0.2:
        art = bent(rng, art, look.strength)
    side = pixels.shape[0]
    around = art.outline if len(art.outline) else outline_of(0, 0, art.pixels.shape[1], art.pixels.shape[0])
    scale = width_px / np.ptp(around[:, 0])
    height, width = (length * scale for length in art.pixels.shape[:2])
    corners = corners_of(width, height)
    corners *= 1 + rng.uniform(-0.13, 0.13, (4, 2)) * look.strength  # for perspective, move each corner independently
    corners = turned(corners, rng.normal(0, 0.2) if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi))
    for _ in range(12):
        quad = (corners + rng.uniform(0, side, 2)).astype(np.float32)
        low, high = quad.min(0), quad.max(0)
        area = (*low, *high)
        seen = np.clip(high, 0, side) - np.clip(low, 0, side)
        if seen.prod() < 0.8 * (high - low).prod() or any(_overlap(area, other) for other in taken):
            continue
        if len(art.outline):
            around = cv2.perspectiveTransform(art.outline[None], _view(art, quad))[0]
            whole = np.ptp(around, 0)
            clipped = np.clip(around, 0, side)
            if np.ptp(clipped, 0).prod() < 0.75 * whole.prod() or np.ptp(clipped, 0).min() < _MIN_SIDE_PX:
                continue
        taken.append(area)
        box = paste(pixels, art, quad)
        return tuple(np.clip(box, 0, side).tolist()) if box else None
    return None


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _cover_a_part(rng: Rng, pixels: Picture, box: Box) -> None:
    """Hide a part of the code, usually less than a fifth of its area, but up to a third if the code is tiny."""
    x1, y1, x2, y2 = box
    colour = tuple(int(value) for value in rng.uniform(10, 245, 3))
    centre = int(rng.uniform(x1, x2)), int(rng.uniform(y1, y2))
    if rng.random() < 0.5:
        axes = int((x2 - x1) * rng.uniform(0.1, 0.25)) + 1, int((y2 - y1) * rng.uniform(0.1, 0.25)) + 1
        cv2.ellipse(pixels, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        thick = max(int(min(x2 - x1, y2 - y1) * rng.uniform(0.05, 0.18)), 1)
        end = int(centre[0] + (x2 - x1) * rng.uniform(-1, 1)), int(centre[1] + (y2 - y1) * rng.uniform(-1, 1))
        cv2.line(pixels, centre, end, colour, thick, cv2.LINE_AA)


def _photographed(rng: Rng, pixels: Picture, strength: float) -> Picture:
    """Apply the effects of light, lens, sensor and compression to an image."""
    side = pixels.shape[0]
    if rng.random() < 0.4:  # uneven light or a soft shadow
        across = np.linspace(-1, 1, side, dtype=np.float32)
        slope = rng.uniform(-0.5, 0.5, 2) * strength
        pixels = _lit(pixels, 1 + across[None] * slope[0] + across[:, None] * slope[1])
    if rng.random() < 0.12 * strength:  # glare
        spot = np.zeros((side, side), np.float32)
        at = tuple(int(value) for value in rng.integers(0, side, 2))
        axes = int(rng.uniform(0.03, 0.2) * side), int(rng.uniform(0.03, 0.12) * side)
        cv2.ellipse(spot, at, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(60, 170) * strength), -1)
        spot = cv2.blur(cv2.blur(spot, (31, 31)), (31, 31))
        pixels = np.clip(pixels + spot[..., None], 0, 255).astype(np.uint8)
    if rng.random() < 0.2:  # too little light
        pixels = cv2.convertScaleAbs(pixels, alpha=rng.uniform(0.25, 0.6) / strength)
    elif rng.random() < 0.4:
        pixels = cv2.convertScaleAbs(pixels, alpha=rng.uniform(0.7, 1.3), beta=rng.uniform(-20, 25))
    if rng.random() < 0.35:  # out-of-focus blur
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.0) * strength)
    if rng.random() < 0.15 * strength:  # motion blur
        length = int(rng.integers(3, int(5 * strength) + 1))
        angle = rng.uniform(0, np.pi)
        streak = np.zeros((length, length), np.float32)
        middle, reach = (length - 1) / 2, length / 2
        start, end = (
            (round(middle + sign * reach * np.cos(angle)), round(middle + sign * reach * np.sin(angle)))
            for sign in (-1, 1)
        )
        cv2.line(streak, start, end, 1.0)
        pixels = cv2.filter2D(pixels, -1, streak / streak.sum())
    if rng.random() < 0.45:  # sensor noise at high gain
        noise = rng.standard_normal((side, side, 1 if rng.random() < 0.5 else 3), np.float32)
        pixels = np.clip(pixels + noise * rng.uniform(2, 10) * strength, 0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < 0.6:
        quality = int(rng.uniform(30 / strength, 92))
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        pixels = decoded
    return pixels


def _lit(pixels: Picture, light: NDArray[np.float32]) -> Picture:
    lit: Picture = np.clip(pixels * np.clip(light, 0.15, 1.7)[..., None], 0, 255).astype(np.uint8)
    return lit

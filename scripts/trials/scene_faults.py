"""Faults of a camera, which the trial of the scene health injects into video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from scripts.trials.scene_views import SIZE_PX, Picture, Rng, with_noise
from serve_app.schemas.scene import SceneState

Fault = Callable[[Picture], Picture]
_WIDTH_PX, _HEIGHT_PX = SIZE_PX
_NOISE = 2.0  # of the sensor, which is behind the lens, so that no fault of the lens reduces it


def _covered(rng: Rng, other: Picture) -> Fault:
    """Put a hand, a cloth or paint before the lens."""
    cover = _cover(rng)
    return lambda picture: _noisy(rng, cover)


def _mostly_covered(rng: Rng, other: Picture) -> Fault:
    """Leave a strip or a corner that is a tenth of the picture."""
    cover, mask = _cover(rng), np.ones((_HEIGHT_PX, _WIDTH_PX), np.float32)
    kind = rng.integers(3)
    if kind == 0:
        mask[: _HEIGHT_PX // 10] = 0
    elif kind == 1:
        mask[:, : _WIDTH_PX // 10] = 0
    else:
        mask[: round(0.32 * _HEIGHT_PX), : round(0.32 * _WIDTH_PX)] = 0
    mask = cv2.GaussianBlur(mask, (0, 0), 5)[..., None]
    mask = mask[::-1, ::-1] if rng.random() < 0.5 else mask
    return lambda picture: _noisy(rng, picture * (1 - mask) + cover * mask)


def _webbed(rng: Rng, other: Picture) -> Fault:
    """Draw a thick web before the lens, which hides 60 % of the picture. It is out of focus, and light falls on it."""
    centre = np.array([rng.uniform(0.2, 0.8) * _WIDTH_PX, rng.uniform(0.2, 0.8) * _HEIGHT_PX])
    spokes = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(14, 22))))
    directions = np.stack([np.cos(spokes), np.sin(spokes)], 1)
    focus_px, pitch_px = rng.uniform(2.5, 4), rng.uniform(15, 20)
    mask = np.zeros((_HEIGHT_PX, _WIDTH_PX), np.float32)
    while np.mean(mask > 0.5) < 0.6:
        mask[:] = 0
        for direction in directions:
            _strand(mask, centre, centre + 500 * direction, rng)
        for radius in np.arange(pitch_px, 420, pitch_px):
            corners = centre + radius * directions * rng.uniform(0.9, 1.1, (len(spokes), 1))
            for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
                _strand(mask, start, end, rng)
        mask = np.clip(cv2.GaussianBlur(mask, (0, 0), focus_px), 0, 0.95)
        pitch_px *= 0.9
    level = rng.uniform(120, 220)
    return lambda picture: _noisy(rng, picture * (1 - mask[..., None]) + level * mask[..., None])


def _strand(mask: Any, start: Any, end: Any, rng: Rng) -> None:
    cv2.line(mask, start.astype(int), end.astype(int), 1.0, int(rng.integers(6, 11)), cv2.LINE_AA)


def _blurred(rng: Rng, other: Picture) -> Fault:
    """Put the lens out of focus, by 0.5 % to 2 % of the picture's width."""
    sigma_px = rng.uniform(0.005, 0.02) * _WIDTH_PX
    return lambda picture: _noisy(rng, cv2.GaussianBlur(picture, (0, 0), sigma_px))


def _dark(rng: Rng, other: Picture) -> Fault:
    """Take the light away."""
    light = rng.uniform(0, 0.03)
    return lambda picture: _noisy(rng, picture * light)


def _shifted(rng: Rng, other: Picture) -> Fault:
    """Turn the camera by 3 % to 25 % of its view."""
    angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.25)
    dx, dy = share * _WIDTH_PX * np.cos(angle), share * _WIDTH_PX * np.sin(angle)
    return _warped(rng, np.array([[1, 0, dx], [0, 1, dy]], np.float32))


def _rolled(rng: Rng, other: Picture) -> Fault:
    """Tilt the camera to the side by 6° to 30°."""
    angle = rng.uniform(6, 30) * rng.choice([-1, 1])
    return _warped(rng, cv2.getRotationMatrix2D((_WIDTH_PX / 2, _HEIGHT_PX / 2), angle, 1.0))


def _warped(rng: Rng, move: Any) -> Fault:
    return lambda picture: _noisy(rng, cv2.warpAffine(picture, move, SIZE_PX, borderMode=cv2.BORDER_REFLECT))


def _turned(rng: Rng, other: Picture) -> Fault:
    """Turn the camera to another view."""
    return lambda picture: _noisy(rng, other)


def _frozen(rng: Rng, other: Picture) -> Fault:
    """Repeat the last picture before the fault."""
    kept: list[Picture] = []

    def freeze(picture: Picture) -> Picture:
        kept.append(picture) if not kept else None
        return kept[0]

    return freeze


# Each kind of fault, the state that it must lead to, and a function that draws a random fault of this kind. The other
# view that the function gets is for a camera that is turned.
FAULTS: Mapping[str, tuple[SceneState, Callable[[Rng, Picture], Fault]]] = {
    "covered": ("covered", _covered),
    "90 % covered": ("covered", _mostly_covered),
    "spider's web": ("covered", _webbed),
    "out of focus": ("blurred", _blurred),
    "dark": ("dark", _dark),
    "shifted": ("moved", _shifted),
    "tilted": ("moved", _rolled),
    "turned": ("moved", _turned),
    "frozen": ("frozen", _frozen),
}


def _cover(rng: Rng) -> Any:
    """Return a picture of something right before the lens, which is far out of focus."""
    colour, blots = rng.uniform(40, 210, 3), rng.normal(0, 1, (5, 8)).astype(np.float32)
    shade = 1 + 0.12 * cv2.resize(blots, SIZE_PX, interpolation=cv2.INTER_CUBIC)
    return np.clip(colour * cv2.GaussianBlur(shade, (0, 0), 12)[..., None], 30, 235)


def _noisy(rng: Rng, picture: Any) -> Picture:
    return with_noise(rng, picture, _NOISE)

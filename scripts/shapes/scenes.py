"""Generate scenes of coloured shapes from a seed, with the exact truth about each shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from serve_app.types import Pixels

KINDS = ("arrow", "bar", "ring", "triangle")
POINTED = ("arrow", "triangle")  # the kinds with keypoints
KEYPOINTS = ("tip", "right", "tail", "left")  # right and left as seen from the tail, looking at the tip
COLOURS = {"blue": (205, 70, 40), "green": (60, 180, 50), "red": (45, 45, 215)}  # BGR
_COLOURED = tuple(f"{colour} {kind}" for colour in COLOURS for kind in KINDS)
# The labels of each task's model, by class id. Ultralytics sorts the labels of a model that classifies.
LABELS = {"classify": _COLOURED, "detect": KINDS, "obb": KINDS, "pose": POINTED, "segment": KINDS}
LENGTHS_PX = 36, 72  # the least and the greatest length of a shape
_WIDTHS = {"arrow": (0.6, 0.75), "bar": (0.35, 0.5), "ring": (0.65, 0.8), "triangle": (0.6, 0.75)}  # per length
_HOLE = 0.5  # the size of a ring's hole, relative to the ring
_SUBPIXELS = 8  # in each direction, when a shape is drawn
_GAP_PX = 3.0  # between shapes
_TRIES = 12  # to place a shape in a scene

# Points in a frame that has a length and a width of 1. Its x axis points from the tail to the tip, and its y axis to
# the right.
_ARROW = ((0.5, 0), (0, 0.5), (0, 0.2), (-0.5, 0.2), (-0.5, -0.2), (0, -0.2), (0, -0.5))
_BAR = ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))
_TRIANGLE = ((0.5, 0), (-0.5, 0.5), (-0.5, -0.5))
_TURNS = np.linspace(0, 2 * math.pi, 96, endpoint=False)
_OUTLINES = {
    "arrow": np.array(_ARROW),
    "bar": np.array(_BAR),
    "ring": np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1) / 2,
    "triangle": np.array(_TRIANGLE),
}
_KEYPOINTS = {
    "arrow": np.array(((0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5))),
    "triangle": np.array(((0.5, 0), (-0.5, 0.5), (-0.5, 0), (-0.5, -0.5))),
}


@dataclass(frozen=True)
class Shape:
    """One shape, with its place in the image. Coordinates are in pixels; the image begins at (0, 0)."""

    kind: str
    colour: str
    centre: tuple[float, float]
    length_px: float  # along the direction of the shape
    width_px: float  # across that direction; shorter than the length
    angle: float  # of the direction, in radians from 0 to 2π; it turns the x axis towards the y axis

    @property
    def outline(self) -> NDArray[np.float64]:
        """Return the points of the outline, with shape (n, 2)."""
        return self._placed(_OUTLINES[self.kind])

    @property
    def hole(self) -> NDArray[np.float64] | None:
        """Return the points of the outline of the hole, with shape (n, 2), or None if the shape has no hole."""
        return self._placed(_OUTLINES[self.kind] * _HOLE) if self.kind == "ring" else None

    @property
    def keypoints(self) -> NDArray[np.float64]:
        """Return the points that ``KEYPOINTS`` names, with shape (4, 2). Only the kinds in ``POINTED`` have them."""
        return self._placed(_KEYPOINTS[self.kind])

    @property
    def corners(self) -> NDArray[np.float64]:
        """Return the corners of the rotated rectangle around the shape, with shape (4, 2)."""
        return self._placed(_OUTLINES["bar"])

    @property
    def rotated(self) -> tuple[float, float, float, float, float]:
        """Return the rotated rectangle around the shape: its centre, length, width, and angle from 0 to π."""
        return *self.centre, self.length_px, self.width_px, self.angle % math.pi

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Return the upright box around the outline: left, top, right, bottom."""
        (left, top), (right, bottom) = self.outline.min(axis=0), self.outline.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def coverage(self, width_px: int, height_px: int) -> NDArray[np.float32]:
        """Return which share of each pixel the shape covers, with shape (height, width). The image has all of it."""
        outline, corner = self.outline, np.floor(self.outline.min(axis=0)).astype(int)
        columns, rows = (np.ceil(outline.max(axis=0)).astype(int) - corner).tolist()
        canvas = np.zeros((rows * _SUBPIXELS, columns * _SUBPIXELS), np.uint8)
        for points, value in ((outline, 255), (self.hole, 0)):
            if points is not None:
                # OpenCV's coordinates are those of pixel centres, here in 1/16 of a subpixel.
                scaled = np.rint(((points - corner) * _SUBPIXELS - 0.5) * 16).astype(np.int32)
                cv2.fillPoly(canvas, [scaled], value, shift=4)
        left, top = corner.tolist()
        covered = np.zeros((height_px, width_px), np.float32)
        covered[top : top + rows, left : left + columns] = cv2.resize(
            canvas.astype(np.float32) / 255, (columns, rows), interpolation=cv2.INTER_AREA
        )
        return covered

    def mask(self, width_px: int, height_px: int) -> NDArray[np.bool_]:
        """Return the pixels of which the shape covers at least half, with shape (height, width)."""
        return self.coverage(width_px, height_px) >= 0.5

    def _placed(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points of the unit frame as pixels of the image."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn = np.array(((cos, sin), (-sin, cos)))
        return np.asarray(points * (self.length_px, self.width_px) @ turn + self.centre)


@dataclass(frozen=True)
class Scene:
    """An image, and the shapes in it. No shape touches another one or the border of the image."""

    pixels: Pixels
    shapes: tuple[Shape, ...]

    @property
    def label(self) -> str:
        """Return the class of an image with one shape, for the model that classifies."""
        (shape,) = self.shapes
        return f"{shape.colour} {shape.kind}"


def scene(rng: np.random.Generator, width_px: int, height_px: int, kinds: Sequence[str] = KINDS) -> Scene:
    """Return a scene with at least one shape. A shape that would touch an earlier one is left out."""
    shapes: list[Shape] = []
    for _ in range(_TRIES):
        shape = _shape(rng, width_px, height_px, LENGTHS_PX, kinds)
        if all(math.dist(shape.centre, other.centre) >= _reach(shape) + _reach(other) + _GAP_PX for other in shapes):
            shapes.append(shape)
    return _drawn(rng, width_px, height_px, shapes)


def portrait(rng: np.random.Generator, width_px: int, height_px: int) -> Scene:
    """Return a scene with one large shape near the centre, which dominates the image."""
    side_px = min(width_px, height_px)
    shape = _shape(rng, side_px, side_px, (round(0.42 * side_px), round(0.62 * side_px)), KINDS)
    x, y = shape.centre
    moved = (x + (width_px - side_px) / 2, y + (height_px - side_px) / 2)
    return _drawn(rng, width_px, height_px, [_at(shape, moved)])


def _shape(
    rng: np.random.Generator, width_px: int, height_px: int, lengths_px: tuple[int, int], kinds: Sequence[str]
) -> Shape:
    """Return a random shape whose rotated rectangle lies in an image of this size."""
    kind, colour = kinds[int(rng.integers(len(kinds)))], list(COLOURS)[int(rng.integers(len(COLOURS)))]
    length_px = float(rng.uniform(*lengths_px))
    width = length_px * float(rng.uniform(*_WIDTHS[kind]))
    shape = Shape(kind, colour, (0.0, 0.0), length_px, width, float(rng.uniform(0, 2 * math.pi)))
    # The corners must lie in the image, too: Ultralytics does not train with images of which a corner lies outside.
    (left, top), (right, bottom) = shape.corners.min(axis=0), shape.corners.max(axis=0)
    x, y = rng.uniform(1 - left, width_px - 1 - right), rng.uniform(1 - top, height_px - 1 - bottom)
    return _at(shape, (float(x), float(y)))


def _at(shape: Shape, centre: tuple[float, float]) -> Shape:
    return Shape(shape.kind, shape.colour, centre, shape.length_px, shape.width_px, shape.angle)


def _reach(shape: Shape) -> float:
    """Return the radius of a circle that contains the shape."""
    return float(np.linalg.norm(shape.outline - shape.centre, axis=1).max())


def _drawn(rng: np.random.Generator, width_px: int, height_px: int, shapes: list[Shape]) -> Scene:
    pixels = _background(rng, width_px, height_px)
    for shape in shapes:
        colour = np.array(COLOURS[shape.colour]) + rng.uniform(-25, 25, 3)
        covered = shape.coverage(width_px, height_px)[..., None]
        pixels = pixels * (1 - covered) + colour.astype(np.float32) * covered
    pixels += rng.normal(0, 4, pixels.shape).astype(np.float32)
    return Scene(np.clip(pixels, 0, 255).astype(np.uint8), tuple(shapes))


def _background(rng: np.random.Generator, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Return a texture in muted colours, made of blots and stripes."""
    blots = rng.normal(rng.uniform(70, 180), 22, (height_px // 24 + 2, width_px // 24 + 2, 3)).astype(np.float32)
    texture = cv2.resize(blots, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    direction, period_px = rng.uniform(0, math.pi), rng.uniform(5, 40)
    x, y = np.meshgrid(np.arange(width_px, dtype=np.float32), np.arange(height_px, dtype=np.float32))
    phase = (x * math.cos(direction) + y * math.sin(direction)) * (2 * math.pi / period_px)
    stripes = np.sin(phase) * rng.uniform(0, 25)
    return np.asarray(texture + stripes[..., None], np.float32)

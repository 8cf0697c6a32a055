"""The sources of the trial: endless traffic that is resampled from a camera's images in random blocks."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scripts.trials.drift.cameras import Camera, Shown
from serve_app.drift.bins import BINS, histogram_of

_BLOCK_IMAGES = 12  # the mean length of a block of consecutive images
_NIGHT_HOURS = frozenset({0, 1, 2, 3, 4, 5, 20, 21, 22, 23})
_WEATHER_HOURS = 3  # the mean time for which the light stays as it is
_CLOSED_CHANCE, _CLOSED_HOURS = 0.01, 12  # an hour begins a time without images, of up to this length
_EMPTY_CHANCE = 0.02  # a block shows no objects

Rng = np.random.Generator
Sums = NDArray[np.uint32]  # (images + 1, BINS): the counts of the first images, so that differences count blocks


class Source:
    """One source: a camera, with its own rates of classes, its own night and its own closing times."""

    def __init__(self, camera: Camera, seed: int) -> None:
        """Choose the properties of the source at random, from the seed."""
        self._rng = np.random.default_rng([seed, 4])
        self.camera = camera
        self._rates = self._rng.uniform(0.4, 1, max(len(camera.labels), 1))
        self._has_night = bool(self._rng.random() < 0.8)
        self._day = [_sums(self._thinned(shown)) for shown in camera.day]
        self._night = [_sums(self._thinned(shown)) for shown in camera.night]
        self._empty = [_sums([_without(one) for one in shown]) for shown in camera.day + camera.night]
        self._light = 1
        self._closed_hours = 0

    def copy(self, rng: Rng) -> Source:
        """Return a source with the same properties, which goes its own way."""
        made = copy.copy(self)
        made._rng = rng
        return made

    def is_night(self, hour: int) -> bool:
        """Return whether the images of this hour of the day are those of a night."""
        return self._has_night and hour % 24 in _NIGHT_HOURS

    def next_hour(self) -> bool:
        """Begin the next hour, in which the light may change. Return whether there are images in it."""
        if self._rng.random() < 1 / _WEATHER_HOURS:
            self._light = int(self._rng.integers(len(self._day)))
        if self._closed_hours:
            self._closed_hours -= 1
        elif self._rng.random() < _CLOSED_CHANCE:
            self._closed_hours = int(self._rng.integers(1, _CLOSED_HOURS + 1))
        return not self._closed_hours

    def images(self, hour: int, count: int) -> NDArray[np.uint32]:
        """Return the counts of the next images at this hour of the day, (BINS,)."""
        night = self.is_night(hour)
        usual = (self._night if night else self._day)[self._light]
        empty = self._empty[self._light + (len(self._day) if night else 0)]
        return resample(self._rng, usual, count, empty, _EMPTY_CHANCE)

    def shown(self, hour: int) -> list[Shown]:
        """Return the images that this hour of the day shows in the present light, before they are resampled."""
        night = self.is_night(hour)
        return self._thinned((self.camera.night if night else self.camera.day)[self._light])

    def night(self) -> list[Shown]:
        """Return the images of a night, also if the source has none."""
        return self._thinned(self.camera.night[self._light])

    def _thinned(self, shown: list[Shown]) -> list[Shown]:
        """Leave out objects, so that each class occurs at this source's rate. The same objects are always left out."""
        rng = np.random.default_rng([len(shown), int(self._rates[0] * 1e6)])
        return [
            keeping(one, rng.random(len(one.answer.detections)) < self._rates[one.answer.detections.class_id])
            for one in shown
        ]


def resample(
    rng: Rng, sums: Sums, count: int, empty: Sums | None = None, empty_chance: float = 0.0
) -> NDArray[np.uint32]:
    """Return the counts of ``count`` images in blocks of random places and lengths. Some blocks are from ``empty``."""
    found = np.zeros(BINS, np.uint32)
    images = len(sums) - 1
    while count:
        length = min(int(rng.geometric(1 / _BLOCK_IMAGES)), count, images)
        first = int(rng.integers(images - length + 1))
        origin = empty if empty is not None and rng.random() < empty_chance else sums
        found += origin[first + length] - origin[first]
        count -= length
    return found


def sums_of(shown: list[Shown]) -> Sums:
    """Return the counts of the first images, for each number of images from 0 on."""
    return _sums(shown)


def _sums(shown: list[Shown]) -> Sums:
    rows = np.array([histogram_of(one.look, one.answer) for one in shown], np.uint32)
    return np.vstack([np.zeros((1, BINS), np.uint32), rows.cumsum(axis=0, dtype=np.uint32)])


def _without(shown: Shown) -> Shown:
    return keeping(shown, np.zeros(len(shown.answer.detections), bool))


def keeping(shown: Shown, kept: NDArray[np.bool_]) -> Shown:
    """Return the image with only those detections for which ``kept`` is true."""
    found = shown.answer.detections
    labels = tuple(label for label, keep in zip(found.labels or (), kept, strict=True) if keep)
    detections = replace(
        found, xyxy=found.xyxy[kept], confidence=found.confidence[kept], class_id=found.class_id[kept], labels=labels
    )
    return replace(shown, answer=replace(shown.answer, detections=detections))

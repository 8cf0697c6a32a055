"""Generated video of fixed cameras, in which nothing is wrong with the camera.

Each picture has the size at which the check of the scene health samples a frame, so that hours of video can be drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from scripts.codes.surfaces import HELD_OUT, photograph_part

SIZE_PX = 384, 216  # width, height
DAY_S = 3600.0  # a day in this video is 24 times as short as a real one, so that dusk is 24 times as fast

Picture = NDArray[np.uint8]  # (216, 384, 3)
Light = NDArray[np.float32]
Rng = np.random.Generator

# The licences are in scripts/codes/surfaces.py.
_PHOTOGRAPHS = replace(
    HELD_OUT,
    photographs=(
        "skimage/data/astronaut.png",
        "skimage/data/coffee.png",
        "skimage/data/chelsea.png",
        "skimage/data/rocket.jpg",
        "skimage/data/coins.png",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg",
    ),
)


@dataclass(frozen=True)
class Conditions:
    """What happens before a camera. All of it is harmless."""

    name: str
    day_and_night: float = 0.0  # how much of the light is lost at night
    infrared: bool = False  # at night, the camera switches to a grey picture with its own light
    lamp: float = 0.0  # how much of the light is lost while a lamp is off; the lamp is switched every few minutes
    rain: int = 0  # streaks per picture
    headlights: bool = False
    people_each_s: float = 0.0  # the mean interval between people who walk past
    close_each_s: float = 0.0  # the mean interval between people who stop right before the lens
    noise: float = 3.0  # the standard deviation of the sensor's noise, in grey levels; weak light has more
    jpeg_quality: int = 0  # 0: not compressed
    sway_px: float = 0.0  # how far the wind moves the camera
    caption: bool = True


ALL = (
    Conditions("quiet room"),
    Conditions("quiet room with little noise", noise=0.7, jpeg_quality=40),
    Conditions("quiet room with much noise", noise=9.0),
    Conditions("light switched off and on", lamp=0.88, people_each_s=90),
    Conditions("second lamp switched", lamp=0.4, people_each_s=60, jpeg_quality=60),
    Conditions("people close to the lens", people_each_s=20, close_each_s=60),
    Conditions("day and night", day_and_night=0.93, people_each_s=60),
    Conditions("day and night with infrared light", day_and_night=0.97, infrared=True, people_each_s=90),
    Conditions("rain by day and night", day_and_night=0.9, rain=250, sway_px=0.7),
    Conditions("headlights at night", day_and_night=0.95, headlights=True, rain=60, jpeg_quality=50),
)


class Photographs:
    """The views of different cameras: parts of photographs that come with Python packages."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng

    def view(self) -> Picture:
        """Return a random view with enough detail for a camera to be worth its place."""
        while True:
            part = photograph_part(self._rng, _PHOTOGRAPHS, *SIZE_PX)
            grey = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
            # Parts of the sky or of a wall show nothing, and a camera does not look at them.
            texture = cv2.resize(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), (16, 9), interpolation=cv2.INTER_AREA)
            if np.mean(texture > 4) > 0.5 and 60 < grey.mean() < 200:
                return np.ascontiguousarray(part)


@dataclass
class Person:
    """A person who walks past, or who stops before the lens."""

    colour: NDArray[np.float32]
    width_px: float
    height_px: float
    y_px: float
    began_at_s: float
    lasts_s: float
    is_close: bool

    def draw(self, picture: Picture, at_s: float) -> None:
        share = (at_s - self.began_at_s) / self.lasts_s
        width = SIZE_PX[0]
        if self.is_close:  # walks up from the side, stops, and leaves
            share = 0.5 if 0.2 < share < 0.8 else share / 0.4 if share <= 0.2 else 0.5 + (share - 0.8) / 0.4
        x = -self.width_px + share * (width + 2 * self.width_px)
        centre = round(x), round(self.y_px)
        axes = round(self.width_px / 2), round(self.height_px / 2)
        cv2.ellipse(picture, centre, axes, 0, 0, 360, self.colour.tolist(), -1, cv2.LINE_AA)
        head = round(x), round(self.y_px - 0.6 * self.height_px)
        cv2.circle(picture, head, max(round(self.width_px / 3), 1), (110, 140, 190), -1, cv2.LINE_AA)


@dataclass
class Camera:
    """A fixed camera, which yields one picture per second."""

    view: Picture
    conditions: Conditions
    rng: Rng
    people: list[Person] = field(default_factory=list)
    lamp_is_on: bool = True

    def pictures(self, duration_s: int) -> Iterator[Picture]:
        """Yield the pictures of ``duration_s`` seconds."""
        lamp_light = _light_of_a_lamp(self.rng)
        switched_at_s = self.rng.exponential(200.0)
        phase_s = self.rng.uniform(0, DAY_S)
        headlight: tuple[float, float, float] | None = None  # start, duration, height
        for second in range(duration_s):
            now = self.conditions
            if now.lamp and second > switched_at_s:
                self.lamp_is_on = not self.lamp_is_on
                switched_at_s = second + 30 + self.rng.exponential(200.0)
            daylight = _daylight((second + phase_s) % DAY_S / DAY_S)
            light = 1 - now.day_and_night * (1 - daylight)
            picture = self._scene(second)
            is_infrared = now.infrared and light < 0.25
            if is_infrared:
                picture, light = _infrared(picture), 0.7
            shade: Any = light if self.lamp_is_on or not now.lamp else light * (1 - now.lamp * lamp_light)
            picture = np.clip(picture * _as_layer(shade), 0, 255).astype(np.uint8)
            if now.headlights and light < 0.5:
                if headlight is None and self.rng.random() < 0.05:
                    headlight = second, self.rng.uniform(3, 12), self.rng.uniform(0.3, 0.9)
                if headlight is not None:
                    began, lasts, height = headlight
                    picture = _headlight(picture, (second - began) / lasts, height)
                    headlight = None if second - began >= lasts else headlight
            yield self._photographed(picture, float(np.mean(shade)), second)

    def _scene(self, second: int) -> Picture:
        now, rng = self.conditions, self.rng
        picture = self.view.copy()
        if now.people_each_s and rng.random() < 1 / now.people_each_s:
            self.people.append(_person(rng, second, is_close=False))
        if now.close_each_s and rng.random() < 1 / now.close_each_s and not any(one.is_close for one in self.people):
            self.people.append(_person(rng, second, is_close=True))
        self.people = [one for one in self.people if second < one.began_at_s + one.lasts_s]
        for person in self.people:
            person.draw(picture, second)
        for _ in range(now.rain):
            x, y, length = int(rng.integers(SIZE_PX[0])), int(rng.integers(SIZE_PX[1])), int(rng.integers(4, 14))
            level = int(rng.integers(150, 230))
            cv2.line(picture, (x, y), (x + length // 4, y + length), (level, level, level), 1, cv2.LINE_AA)
        return picture

    def _photographed(self, picture: Picture, light: float, second: int) -> Picture:
        now, rng = self.conditions, self.rng
        if now.sway_px:
            dx, dy = rng.normal(0, now.sway_px, 2)
            move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
            picture = cv2.warpAffine(picture, move, SIZE_PX, borderMode=cv2.BORDER_REFLECT)
        picture = with_noise(rng, picture, now.noise * (1.5 if light < 0.3 else 1.0))
        if now.caption:
            cv2.putText(picture, f"CAM 1 {second % 3600:04d}", (6, 14), cv2.FONT_HERSHEY_PLAIN, 0.9, (255, 255, 255), 1)
        if now.jpeg_quality:
            data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, now.jpeg_quality])[1]
            picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        return picture


def with_noise(rng: Rng, picture: Any, deviation: float) -> Picture:
    """Return a picture with the noise of a sensor, which has this standard deviation in grey levels.

    The noise is a random part of a large field of noise, because it takes longer to draw it than to check the picture.
    """
    (width, height), field = SIZE_PX, _field_of_noise()
    y, x = (int(rng.integers(field.shape[axis] - size)) for axis, size in enumerate((height, width)))
    noise = np.float32(deviation) * field[y : y + height, x : x + width]
    noisy: Picture = np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)  # rounds, and clips to 0 to 255
    return noisy


@cache
def _field_of_noise() -> Light:
    """Return noise with a standard deviation of 1, as an array of shape (864, 1536, 3)."""
    width, height = SIZE_PX
    return np.random.default_rng(0).standard_normal((4 * height, 4 * width, 3), np.float32)


def video(path: Path) -> Iterator[Picture]:
    """Yield one picture per second of a video file, which is played again and again, with a little noise."""
    rng = np.random.default_rng(0)
    for picture in cycle(_each_second(path)):
        yield with_noise(rng, picture, 1.0)


@cache
def _each_second(path: Path) -> list[Picture]:
    pictures: list[Picture] = []
    with av.open(str(path)) as container:
        due_s = 0.0
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= due_s:
                due_s += 1
                pictures.append(cv2.resize(frame.to_ndarray(format="bgr24"), SIZE_PX, interpolation=cv2.INTER_NEAREST))
    return pictures


def through_h264(pictures: Iterator[Picture], count: int, path: Path) -> Iterator[Picture]:
    """Yield the pictures as a camera with little bandwidth sends them, with a key frame every ten pictures."""
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "32", "g": "10", "bf": "0"}
        stream = container.add_stream("libx264", rate=1, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        for _, picture in zip(range(count), pictures, strict=False):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)


def _person(rng: Rng, second: int, *, is_close: bool) -> Person:
    height = rng.uniform(250, 420) if is_close else rng.uniform(30, 120)
    return Person(
        colour=rng.uniform(20, 200, 3).astype(np.float32),
        width_px=height * rng.uniform(0.5, 0.8 if is_close else 0.6),
        height_px=height,
        y_px=rng.uniform(110, 150) if is_close else rng.uniform(90, 190),
        began_at_s=second,
        lasts_s=rng.uniform(4, 14) if is_close else rng.uniform(4, 20),
        is_close=is_close,
    )


def _daylight(time_of_day: float) -> float:
    """Return the daylight from 0 to 1 at a time from 0 to 1: dusk and dawn take a tenth of the day each."""
    return float(np.clip(0.5 + 5 * (0.25 - abs(time_of_day - 0.5)), 0, 1))


def _light_of_a_lamp(rng: Rng) -> Light:
    """Return how much of the light at each pixel comes from the lamp, from 0.5 to 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIZE_PX[0]), np.linspace(-1, 1, SIZE_PX[1]))
    at_x, at_y = rng.uniform(-1, 1, 2)
    light: Light = (0.5 + 0.5 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2))).astype(np.float32)
    return light


def _as_layer(light: Any) -> Any:
    return light[..., None] if isinstance(light, np.ndarray) else light


def _infrared(picture: Picture) -> Picture:
    """Return a grey picture with its light in the middle, in which plants and clothes are brighter than by day."""
    grey = 255 - 0.8 * (255 - picture[..., 2].astype(np.float32)) * (0.6 + 0.4 * picture[..., 0] / 255)
    x, y = np.meshgrid(np.linspace(-1, 1, SIZE_PX[0]), np.linspace(-1, 1, SIZE_PX[1]))
    lit = grey * (0.35 + 0.65 * np.exp(-(x**2 + y**2)))
    return np.repeat(np.clip(lit, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _headlight(picture: Picture, share: float, height: float) -> Picture:
    """Return the picture with the glare of a car that drives past."""
    width_px, height_px = SIZE_PX
    glare = np.zeros((height_px, width_px), np.float32)
    for offset in (-12, 12):
        cv2.circle(glare, (round(share * width_px) + offset, round(height * height_px)), 14, 255.0, -1)
    glare = cv2.GaussianBlur(glare, (0, 0), 6) + 2.5 * cv2.GaussianBlur(glare, (0, 0), 30)
    lit: Picture = np.clip(picture + glare[..., None], 0, 255).astype(np.uint8)
    return lit

"""Tests of the scene health with generated frames, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import cache

import cv2
import numpy as np
import pytest

from serve_app.schemas.scene import ALARMS, SceneHealthChange, SceneHealthSettings, SceneMemory, SceneState
from serve_app.streams.scene.health import HealthCheck
from serve_app.types import Frame, Pixels, Position
from tests.support.scenes import SIZE_PX, filmed, view

LEARNED_S = 40
WITHIN_S = 30


class Watched:
    """A check that sees a stream, and the changes that it has reported."""

    def __init__(
        self, memory: SceneMemory | None = None, *, moving_camera: bool = False, interval_s: float = 1.0
    ) -> None:
        settings = SceneHealthSettings(moving_camera=moving_camera)
        self.check = HealthCheck(settings, memory or SceneMemory())
        self.changes: list[SceneHealthChange] = []
        self.at_s = 0.0
        self._interval_s = interval_s

    @property
    def state(self) -> SceneState:
        return self.check.health.state

    @property
    def alarms(self) -> list[SceneState]:
        return [change.state for change in self.changes if change.state in ALARMS]

    def show(self, frames: Iterable[Pixels]) -> Watched:
        for pixels in frames:
            frame = Frame(round(self.at_s), 1e9 + self.at_s, self.at_s, Position(0), lambda: view())
            if self.check.is_due(frame) and (change := self.check.update(frame, pixels)):
                self.changes.append(change)
            self.at_s += self._interval_s
        return self


def learned(interval_s: float = 1.0) -> Watched:
    """Return a check that knows the usual view."""
    return deepcopy(_learned(interval_s))


@cache
def _learned(interval_s: float) -> Watched:
    return Watched(interval_s=interval_s).show(filmed(view(), round(LEARNED_S / interval_s)))


def covered(pixels: Pixels, share: float = 1.0) -> Pixels:
    hidden = pixels.copy()
    hidden[:, : round(share * pixels.shape[1])] = (70, 80, 110)
    return hidden


def blurred(pixels: Pixels) -> Pixels:
    soft: Pixels = cv2.GaussianBlur(pixels, (0, 0), 4)
    return soft


def dark(pixels: Pixels) -> Pixels:
    return (pixels * 0.02).astype(np.uint8)


def shifted(pixels: Pixels) -> Pixels:
    move = np.array([[1, 0, 14], [0, 1, 0]], np.float32)
    moved: Pixels = cv2.warpAffine(pixels, move, SIZE_PX, borderMode=cv2.BORDER_REFLECT)
    return moved


def turned(pixels: Pixels) -> Pixels:
    return view(seed=7)


def webbed(pixels: Pixels, level: int) -> Pixels:
    """Hide two thirds of the picture behind a thick web, which is out of focus."""
    mask = np.zeros(pixels.shape[:2], np.float32)
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        end = int(150 + 500 * np.cos(angle)), int(90 + 500 * np.sin(angle))
        cv2.line(mask, (150, 90), end, 1.0, 9, cv2.LINE_AA)
    for radius in range(24, 400, 24):
        cv2.circle(mask, (150, 90), radius, 1.0, 9, cv2.LINE_AA)
    mask = np.clip(cv2.GaussianBlur(mask, (0, 0), 3), 0, 0.95)
    behind: Pixels = (pixels * (1 - mask[..., None]) + level * mask[..., None]).astype(np.uint8)
    return behind


def faint(pixels: Pixels) -> Pixels:
    """Reduce the contrast, and compress the picture so strongly that much of the remaining detail is lost."""
    weak = (170 + 0.1 * (pixels.astype(np.float32) - 120)).astype(np.uint8)
    decoded = cv2.imdecode(cv2.imencode(".jpg", weak, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR)
    return np.asarray(decoded, np.uint8)


def test_an_undisturbed_camera_is_ok_half_a_minute_after_the_start() -> None:
    watched = Watched()
    assert (watched.state, watched.check.health.since_at_s) == ("unknown", 0)
    assert "not known yet" in watched.check.health.detail
    watched.show(filmed(view(), LEARNED_S))
    assert [(change.state, change.previous) for change in watched.changes] == [("ok", "unknown")]
    assert watched.check.health.since_at_s == watched.changes[0].captured_at_s > 1e9
    assert watched.check.health.detail == ""


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (covered, "covered"),
        (lambda pixels: covered(pixels, 0.9), "covered"),
        (blurred, "blurred"),
        (dark, "dark"),
        (shifted, "moved"),
        (turned, "moved"),
    ],
)
def test_a_fault_is_named_within_30_s_and_its_end_is_noticed(
    fault: Callable[[Pixels], Pixels], expected: SceneState
) -> None:
    watched = learned()
    watched.show(filmed(fault(view()), WITHIN_S))
    assert watched.alarms == [expected]
    assert watched.check.health.detail
    watched.show(filmed(view(), WITHIN_S))
    assert [change.state for change in watched.changes] == ["ok", expected, "ok"]


@pytest.mark.parametrize("level", [110, 130])
def test_a_web_is_found_even_if_it_is_as_light_as_the_scene(level: int) -> None:
    assert learned().show(filmed(webbed(view(), level), WITHIN_S)).alarms == ["covered"]


def test_a_camera_that_is_turned_to_a_softer_view_has_moved_and_is_not_covered() -> None:
    softer = cv2.GaussianBlur(view(seed=20), (0, 0), 0.9)
    assert learned().show(filmed(softer, WITHIN_S)).alarms == ["moved"]


def test_a_view_of_which_a_third_is_left_is_covered_and_has_not_moved() -> None:
    assert learned().show(filmed(covered(view(), 0.67), WITHIN_S)).alarms == ["covered"]


def test_a_picture_with_little_contrast_cannot_be_judged() -> None:
    watched = learned().show(filmed(faint(view()), 60))
    assert (watched.state, watched.alarms) == ("unknown", [])
    assert "too little contrast" in watched.check.health.detail


def test_a_camera_with_noise_that_repeats_a_frame_is_frozen() -> None:
    watched = learned()
    (frame,) = filmed(view(), 1)
    watched.show([frame] * WITHIN_S)
    assert watched.alarms == ["frozen"]
    watched.show(filmed(view(), 2))
    assert watched.state == "ok"


def test_a_source_without_noise_is_only_perhaps_frozen() -> None:
    watched = Watched().show([view()] * 120)
    assert (watched.state, watched.alarms) == ("frozen?", [])


def test_a_source_that_changes_each_minute_is_reported_once() -> None:
    watched = Watched()
    for seed in range(10):
        watched.show([next(filmed(view(), 1, seed=seed))] * 60)
    assert [change.state for change in watched.changes].count("frozen?") == 1
    assert watched.alarms == []


def test_a_black_picture_without_noise_is_dark_and_not_frozen() -> None:
    watched = learned().show([np.zeros_like(view())] * WITHIN_S)
    assert watched.alarms == ["dark"]


def test_a_person_right_before_the_lens_for_10_s_is_no_alarm() -> None:
    watched = learned()
    for _ in range(5):
        watched.show(filmed(covered(view()), 10)).show(filmed(view(), 20))
    assert watched.alarms == []


def test_people_who_walk_through_the_picture_are_no_alarm() -> None:
    rng = np.random.default_rng(3)
    watched = learned()
    for _ in range(200):
        pixels = view()
        for x in rng.integers(0, SIZE_PX[0], 4):
            pixels[60:, x : x + 50] = rng.integers(30, 200, 3)
        watched.show(filmed(pixels, 1, seed=int(rng.integers(1 << 30))))
    assert watched.alarms == []


@pytest.mark.parametrize("light", [0.5, 0.25, 0.12])
def test_a_lamp_switched_off_and_on_is_no_alarm(light: float) -> None:
    watched = learned()
    for _ in range(3):
        watched.show(filmed((view() * light).astype(np.uint8), 60)).show(filmed(view(), 60))
    assert watched.alarms == []
    assert watched.state == "ok"


def test_nightfall_is_no_alarm_but_a_light_that_fails_is() -> None:
    watched, lit = learned(), view()
    for light in np.linspace(1, 0, 900):
        watched.show(filmed((lit * light).astype(np.uint8), 1, seed=int(1e6 * light)))
    watched.show(filmed(dark(view()), 120))
    assert (watched.state, watched.alarms) == ("unknown", [])
    assert "slowly" in watched.check.health.detail
    for light in np.linspace(0, 1, 900):
        watched.show(filmed((lit * light).astype(np.uint8), 1, seed=int(1e6 * light)))
    assert (watched.state, watched.alarms) == ("ok", [])
    watched.show(filmed(dark(view()), WITHIN_S))
    assert watched.alarms == ["dark"]


def test_headlights_at_dusk_are_no_alarm() -> None:
    watched = learned().show(filmed(view(), 60))
    for light in np.linspace(1, 0, 30):  # every 40 s, headlights shine for 15 s, until the picture is black
        dim = (view() * light).astype(np.uint8)
        watched.show(filmed(view(), 15, seed=int(1e6 * light))).show(filmed(dim, 25, seed=int(1e6 * light)))
    watched.show(filmed(dark(view()), 120))
    assert watched.alarms == []


def test_headlights_in_a_black_night_are_no_alarm() -> None:
    watched = Watched(learned().check.memory).show(filmed(dark(view()), 60))
    for seed in range(3):
        watched.show(filmed(view(), 20, seed=seed)).show(filmed(dark(view()), 60, seed=seed))
    assert watched.alarms == []


def test_a_restart_by_night_is_no_alarm_but_a_new_stream_of_a_black_picture_is() -> None:
    known = learned().check.memory
    assert Watched(known).show(filmed(dark(view()), 60)).alarms == []
    assert Watched().show(filmed(dark(view()), 60)).alarms == ["dark"]


def test_sleet_of_single_pixels_is_no_alarm() -> None:
    rng = np.random.default_rng(3)
    watched = learned()
    for _ in range(90):
        pixels = view()
        pixels[rng.random(pixels.shape[:2]) < 0.1] = 230
        watched.show(filmed(pixels, 1, seed=int(rng.integers(1 << 30))))
    assert watched.alarms == []


def test_a_camera_that_pans_is_never_moved_but_may_be_dark() -> None:
    watched = Watched(moving_camera=True)
    for seed in range(5):
        watched.show(filmed(view(seed), 30))
    assert (watched.state, watched.alarms) == ("ok", [])
    watched.show(filmed(dark(view()), WITHIN_S))
    assert watched.alarms == ["dark"]


def test_the_new_view_of_a_moved_camera_is_the_usual_one_after_an_hour() -> None:
    watched = learned(interval_s=2.0)
    watched.show(filmed(turned(view()), 1700))
    assert watched.state == "moved"
    watched.show(filmed(turned(view()), 200))
    assert [change.state for change in watched.changes] == ["ok", "moved", "ok"]


def test_the_next_process_knows_the_usual_view_and_the_state() -> None:
    before = learned()
    memory = SceneMemory.model_validate_json(before.check.memory.model_dump_json())
    after = Watched(memory)
    assert after.check.health == before.check.health
    after.show(filmed(turned(view()), WITHIN_S))
    assert after.alarms == ["moved"]
    again = Watched(after.check.memory).show(filmed(turned(view()), WITHIN_S))
    assert (again.state, again.changes) == ("moved", [])


@pytest.mark.parametrize("pause_s", [0, 60])
def test_a_frozen_camera_stays_frozen_after_a_restart_and_after_a_pause(pause_s: float) -> None:
    (frame,) = filmed(view(), 1)
    before = learned().show([frame] * WITHIN_S)
    assert before.state == "frozen"
    after = before if pause_s else Watched(before.check.memory)
    after.changes.clear()
    after.at_s += pause_s
    after.show([frame] * 60)
    assert (after.state, after.changes) == ("frozen", [])
    after.show(filmed(view(), WITHIN_S))
    assert [change.state for change in after.changes] == ["ok"]


def test_the_memory_is_small_even_if_the_view_is_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 255, view().shape, np.uint8)
    watched = Watched().show(filmed(noise, 120))
    assert len(watched.check.memory.model_dump_json()) < 24_000
    assert len(learned().check.memory.model_dump_json()) < 12_000


def test_a_damaged_memory_is_learned_again() -> None:
    watched = Watched(SceneMemory(state="ok", picture="bm90IGEgcGljdHVyZQ==")).show(filmed(view(), LEARNED_S))
    assert (watched.state, watched.alarms) == ("ok", [])


def test_faults_are_found_at_one_frame_each_2_s() -> None:
    watched = learned(interval_s=2.0)
    watched.show(filmed(covered(view()), WITHIN_S // 2))
    assert watched.alarms == ["covered"]


def test_only_about_one_frame_per_second_is_looked_at() -> None:
    check = HealthCheck(SceneHealthSettings(), SceneMemory())
    looks = 0
    for number in range(250):
        frame = Frame(number, number / 25, number / 25, Position(number), view)
        if check.is_due(frame):
            check.update(frame, view())
            looks += 1
    assert 10 <= looks <= 11


def test_a_scene_with_too_little_detail_cannot_be_judged() -> None:
    watched = Watched().show(filmed(np.full_like(view(), 130), 90))
    assert (watched.state, watched.alarms) == ("unknown", [])
    assert "too little detail" in watched.check.health.detail


def test_a_gap_in_the_stream_is_no_freeze() -> None:
    watched = learned()
    (frame,) = filmed(view(), 1)
    watched.show([frame])
    watched.at_s += 3600
    watched.show([frame]).show(filmed(view(), 60))
    assert watched.alarms == []


@pytest.mark.parametrize("size_px", [(96, 54), (320, 320), (1920, 1080)])
def test_frames_of_any_size_are_judged(size_px: tuple[int, int]) -> None:
    watched = Watched().show(filmed(view(size_px=size_px), LEARNED_S))
    assert watched.state == "ok"
    watched.show(filmed(covered(view(size_px=size_px)), WITHIN_S))
    assert watched.alarms == ["covered"]

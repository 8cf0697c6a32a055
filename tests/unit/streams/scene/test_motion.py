from __future__ import annotations

import numpy as np
import pytest

from serve_app.schemas.streams import Motion
from serve_app.streams.scene.motion import MotionGate
from serve_app.types import Pixels

HD = (1080, 1920)


def scene(seed: int = 0, shape: tuple[int, int] = HD) -> Pixels:
    """Return an image of large rectangles in random colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (9, 16, 3), dtype=np.uint8)
    return coarse.repeat(shape[0] // 9, axis=0).repeat(shape[1] // 16, axis=1)


def noisy(pixels: Pixels, rng: np.random.Generator, sigma: float = 5.0) -> Pixels:
    noise = np.float32(sigma) * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def with_square(pixels: Pixels, share: float, at: tuple[int, int] = (300, 500)) -> Pixels:
    """Return a copy of the image with a white square that covers a fraction ``share`` of the image."""
    side = round((share * pixels.shape[0] * pixels.shape[1]) ** 0.5)
    changed = pixels.copy()
    changed[at[0] : at[0] + side, at[1] : at[1] + side] = 255
    return changed


def test_the_first_frame_passes_and_one_like_it_does_not() -> None:
    gate = MotionGate(Motion())
    assert gate.passes(scene(), 0.0)
    assert not gate.passes(scene(), 0.1)
    assert gate.passes(scene(1), 0.2)


@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.3])
def test_a_frame_passes_when_the_thresholds_share_of_it_changed(threshold: float) -> None:
    gate = MotionGate(Motion(threshold=threshold))
    assert gate.passes(scene(), 0.0)
    assert not gate.passes(with_square(scene(), threshold * 0.5), 0.1)
    assert gate.passes(with_square(scene(), threshold * 1.3), 0.2)


def test_a_frame_passes_after_max_skip_s_and_each_pass_restarts_the_time() -> None:
    gate = MotionGate(Motion(max_skip_s=2.0))
    assert [at_s for at_s in np.arange(100.0, 107.0, 0.5) if gate.passes(scene(), at_s)] == [100, 102, 104, 106]
    assert gate.passes(scene(1), 106.75)
    assert not gate.passes(scene(1), 108.5)
    assert gate.passes(scene(1), 108.75)


def test_a_sensors_noise_does_not_pass_but_motion_in_it_does() -> None:
    rng = np.random.default_rng(0)
    gate = MotionGate(Motion(threshold=0.001, max_skip_s=3600))
    assert gate.passes(noisy(scene(), rng), 0.0)
    assert not any(gate.passes(noisy(scene(), rng), i / 30) for i in range(1, 20))
    assert gate.passes(noisy(with_square(scene(), 0.01), rng), 1.0)


def test_motion_too_slow_for_two_frames_passes_once_it_adds_up() -> None:
    gate = MotionGate(Motion(threshold=0.01, max_skip_s=3600))
    passed = [gate.passes(with_square(scene(), 0.04, at=(300, 200 + 4 * i)), i / 30) for i in range(120)]
    assert passed[0]
    assert not any(passed[1:4])
    assert 10 <= sum(passed) <= 30  # of 120 frames


def test_slowly_changing_light_rarely_passes() -> None:
    gate = MotionGate(Motion(max_skip_s=3600))
    passed = [gate.passes(scene() + np.uint8(i // 4), i / 30) for i in range(200)]  # 50 grey levels in 200 frames
    assert 3 <= sum(passed) <= 4  # the first frame, then about one per 16 grey levels


@pytest.mark.parametrize("shape", [(9, 16), (90, 160), (1920 // 16 * 9, 1920), (4320, 7680)])
def test_frames_of_any_size_are_compared(shape: tuple[int, int]) -> None:
    gate = MotionGate(Motion())
    assert gate.passes(scene(0, shape), 0.0)
    assert not gate.passes(scene(0, shape), 0.1)
    assert gate.passes(with_square(scene(0, shape), 0.1, at=(0, 0)), 0.2)


def test_a_camera_that_changes_its_resolution_is_still_compared() -> None:
    gate = MotionGate(Motion(threshold=0.1))
    assert gate.passes(scene(0, HD), 0.0)
    assert not gate.passes(scene(0, (720, 1280)), 0.1)
    assert gate.passes(scene(1, (720, 1280)), 0.2)

"""Publish the video of a 720p stream to an RTSP server, and measure the cost and the frames that the stream loses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
import psutil

from scripts.codes import samples
from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.stage import FOLDER
from serve_app.types import Pixels

_SIZE_PX, _FPS = (1280, 720), 15
_FRAMES = 300
_NOISE = 4.0  # the standard deviation of the noise of a camera
_MAX_CORES = 1.0
_POLL_INTERVAL_S = 0.5


@dataclass
class Phase:
    """A stream with or without a video sink, for the same time."""

    frames: int
    lost: Counter[str]  # by reason
    stream_cores: float  # the CPU time of the stream's process, per second
    sink_cores: float  # the same for the process that encodes the video


@dataclass
class Published:
    """The results of the trial."""

    phases: dict[str, Phase] = field(default_factory=dict)
    sent: int = 0
    recorded: int = 0  # frames that the receiver could decode
    problems: list[str] = field(default_factory=list)


def save_720p() -> Path:
    """Save a noisy video of 720p at 15 frames per second."""
    rng = np.random.default_rng(0)

    def noisy(number: int) -> Pixels:
        large = cv2.resize(samples.belt_frame(number).pixels, _SIZE_PX)
        noise = rng.normal(0, _NOISE, large.shape)
        pixels: Pixels = (large + noise).clip(0, 255).astype(np.uint8)
        return pixels

    return samples.write_video(FOLDER / "720p.mp4", map(noisy, range(_FRAMES)), fps=_FPS, size_px=_SIZE_PX)


def restream(
    cluster: Cluster, video: Path, port: int, file: Path, duration_s: float, tell: Callable[[float], None]
) -> Published:
    """Run the video as a live stream, half of the time without a sink and half of the time with one."""
    trial = Published()
    sink = {"type": "video", "url": f"rtsp://127.0.0.1:{port}/live", "max_fps": _FPS}
    half_s = duration_s / 2
    for name, sinks in (("without a video sink", []), ("with a video sink", [sink])):
        with stream(cluster, "yard", video, loop=True, policy="drop_oldest", sinks=sinks):
            until(lambda: cluster.status("yard").processed > _FPS, what="results")
            phase, sent = _measure(cluster, half_s, lambda done_s: tell(done_s + half_s * bool(trial.phases)))
            trial.phases[name], trial.sent = phase, trial.sent + sent
    trial.recorded = _decoded(file)
    if phase.lost:
        trial.problems.append(f"the stream lost frames: {dict(phase.lost)}")
    if phase.sink_cores > _MAX_CORES:
        trial.problems.append(f"the video took {phase.sink_cores:.2f} cores")
    if trial.recorded < trial.sent:
        trial.problems.append(f"{trial.sent} frames were sent, but {trial.recorded} arrived")
    return trial


def _measure(cluster: Cluster, duration_s: float, tell: Callable[[float], None]) -> tuple[Phase, int]:
    before, cpu_before, began_at_s = cluster.status("yard"), _cpu_s(cluster), time.monotonic()
    while (done_s := time.monotonic() - began_at_s) < duration_s:
        tell(done_s)
        time.sleep(_POLL_INTERVAL_S)
    after, cpu_after, took_s = cluster.status("yard"), _cpu_s(cluster), time.monotonic() - began_at_s
    own, child = ((later - sooner) / took_s for later, sooner in zip(cpu_after, cpu_before, strict=True))
    lost = Counter(after.dropped) - Counter(before.dropped)
    sent = sum(sink.sent for sink in after.sinks)
    return Phase(after.processed - before.processed, lost, own, child), sent


def _cpu_s(cluster: Cluster) -> tuple[float, float]:
    """Return the CPU time of the stream's process, and of its child, in seconds."""
    (worker,) = cluster.workers()
    child = 0.0
    for process in worker.children():
        with suppress(psutil.Error):
            child += sum(process.cpu_times()[:2])
    return sum(worker.cpu_times()[:2]), child


def _decoded(file: Path) -> int:
    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))

"""Measure the CPU time that a stream needs to read a 1080p video of 25 frames per second, without detection.

python -m scripts.benchmark.stream_decoding                      measure clips with moving noise, and print a table
python -m scripts.benchmark.stream_decoding --video FILE         measure clips with the frames of a video

A clip is read as fast as possible, by the capture of a stream with the policy ``wait``. Frames that the stream takes
are converted to BGR. The first seconds are not measured, because the capture then measures the video.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.launch import ROOT
from serve_app.streams.capture.capture import Capture
from serve_app.streams.progress import Progress
from serve_app.types import Pixels
from serve_app.video.source import parse_source

FOLDER = ROOT / "build/bench/decoding"
_WIDTH_PX, _HEIGHT_PX, _FPS = 1920, 1080, 25
_CLIP_S, _UNMEASURED_S = 30.0, 5.0
_BITS_PER_S = 4_000_000  # as cameras send 1080p
_MAX_PIXELS = 50_000_000
_RATES: tuple[float | None, ...] = (None, 5, 2, 1)


@dataclass(frozen=True)
class Clip:
    """What a clip is like."""

    codec: str  # FFmpeg's name of the encoder
    key_interval_s: int
    b_frames: int

    @property
    def path(self) -> Path:
        """The clip's file."""
        return FOLDER / f"{self.codec}_{self.key_interval_s}s_{self.b_frames}b.mp4"

    def save(self, video: Path | None) -> None:
        """Encode the clip, unless it exists.

        Encode a few seconds and repeat them, because encoding is slow. Write a temporary file first, so that an
        interrupted run leaves no short clip.
        """
        if self.path.exists():
            return
        unfinished = self.path.with_suffix(".part")
        length = self.key_interval_s * _FPS
        options = {"preset": "veryfast", "g": str(length), "bf": str(self.b_frames), "sc_threshold": "0"}
        if self.codec == "libx265":
            options = {
                "preset": "ultrafast",
                "x265-params": f"keyint={length}:min-keyint={length}:bframes={self.b_frames}:open-gop=0:scenecut=0"
                ":log-level=none",
            }
        encoded = io.BytesIO()
        with av.open(encoded, "w", format="mp4") as container:
            track = container.add_stream(self.codec, rate=_FPS, options=options)
            assert isinstance(track, av.VideoStream)
            track.width, track.height, track.pix_fmt, track.bit_rate = _WIDTH_PX, _HEIGHT_PX, "yuv420p", _BITS_PER_S
            pictures = _noise() if video is None else _frames(video)
            for pixels in itertools.islice(pictures, max(2 * _FPS, length)):
                container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, "bgr24")))
            container.mux(track.encode(None))
        _repeat(encoded, unfinished)
        unfinished.rename(self.path)


CLIPS = [
    Clip(codec, key_interval_s, b_frames)
    for codec in ("libx264", "libx265")
    for b_frames in (0, 3)
    for key_interval_s in (1, 2, 10)
]


def _repeat(encoded: io.BytesIO, path: Path) -> None:
    """Save the packets of a short clip over and over, until the clip is long enough."""
    encoded.seek(0)
    with av.open(encoded, "r") as short:
        track = short.streams.video[0]
        packets = [packet for packet in short.demux(track) if packet.pts is not None]
        length = track.duration or 0
        time_base = track.time_base or Fraction(0)
        times = round(_CLIP_S / float(length * time_base))
        with av.open(str(path), "w", format="mp4") as container:
            copy = container.add_stream_from_template(track)
            stamps = [(packet.pts or 0, packet.dts or 0) for packet in packets]
            for number in range(times):
                for packet, (pts, dts) in zip(packets, stamps, strict=True):
                    packet.pts, packet.dts, packet.stream = pts + number * length, dts + number * length, copy
                    packet.time_base = time_base
                    container.mux(packet)


def _frames(video: Path) -> Iterator[Pixels]:
    """Yield the frames of a video over and over, enlarged and with the noise of a camera's sensor."""
    random = np.random.default_rng(0)
    noises = itertools.cycle([random.integers(0, 8, (_HEIGHT_PX, _WIDTH_PX, 3), np.uint8) for _ in range(5)])
    while True:
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                yield cv2.add(cv2.resize(frame.to_ndarray(format="bgr24"), (_WIDTH_PX, _HEIGHT_PX)), next(noises))


def _noise() -> Iterator[Pixels]:
    """Yield frames that show a large pattern of noise, which moves."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (_HEIGHT_PX // 4, _WIDTH_PX // 4, 3), np.uint8)
    pattern = cv2.GaussianBlur(cv2.resize(small, (2 * _WIDTH_PX, 2 * _HEIGHT_PX)), (0, 0), 3)
    for number in itertools.count():
        top, left = (2 * number) % _HEIGHT_PX, (3 * number) % _WIDTH_PX
        yield np.ascontiguousarray(pattern[top : top + _HEIGHT_PX, left : left + _WIDTH_PX])


async def cores(path: Path, max_fps: float | None) -> tuple[float, str]:
    """Return the CPU time per second of a clip, and which of its frames were decoded in the end."""
    progress = Progress()
    source = parse_source(str(path), (path.parent,))
    capture = Capture(source, progress, policy="wait", max_pixels=_MAX_PIXELS, max_fps=max_fps)
    began_s: tuple[float, float] | None = None  # in the clip, and of CPU time
    capture.start()
    try:
        while (frame := await capture.take()) is not None:
            if began_s is None and frame.stream_time_s >= _UNMEASURED_S:
                began_s = frame.stream_time_s, time.process_time()
            frame.pixels()
    finally:
        capture.stop()
    assert began_s is not None
    return (time.process_time() - began_s[1]) / (_CLIP_S - began_s[0]), str(progress.decoding.frames)


def main() -> None:
    """Measure every clip at every rate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a video whose frames the clips have (default: moving noise)")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = ["unlimited" if rate is None else f"max_fps {rate:g}" for rate in _RATES]
    table = Table("clip", *names, box=SIMPLE, title="cores per stream")
    for clip in CLIPS:
        clip.save(options.video)
        cells = [asyncio.run(cores(clip.path, rate)) for rate in _RATES]
        table.add_row(clip.path.stem, *(f"{used:.3f} {frames}" for used, frames in cells))
    Console().print(table)


if __name__ == "__main__":
    main()

"""The video sink, which publishes a stream's frames to an RTSP server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlunsplit

import cv2

from serve_app.detections import Detections
from serve_app.errors import PoisonPicture, ServeAppError
from serve_app.ipc.quarantine import Quarantine
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.sinks import SinkStatus
from serve_app.schemas.streams import VideoSink
from serve_app.sinks.outlet import parse_url, server_address
from serve_app.sinks.queue import retry_pauses_s
from serve_app.streams.outputs.pace import Pace
from serve_app.streams.outputs.small_frames import draw_small
from serve_app.types import Pixels
from serve_app.video.publishing import Channel, finish, publish

logger = logging.getLogger(__name__)

_TIME_LIMIT_S = 15.0  # for a frame; FFmpeg's own time limits are lower
_PORT = 554


@dataclass(frozen=True)
class _Shown:
    """A frame, and what is drawn on it."""

    pixels: Pixels
    detections: Detections
    captured_at_s: float


class Restream:
    """Publishes one stream's frames in a separate process, so that adding a frame never blocks.

    Only the newest frame waits. Every frame is counted as sent, or as dropped for one of the reasons ``superseded``,
    ``disconnected`` and ``closed``; frames above ``max_fps`` do not count. A failed connection is retried with
    back-off. Use it in one event loop only.
    """

    def __init__(self, spec: VideoSink, stream_id: str, guard: AddressGuard, hwaccel: str | None) -> None:
        self._spec = spec
        self._stream_id = stream_id
        self._guard = guard
        self._hwaccel = hwaccel
        self._parts = parse_url(spec.url)
        self._target = f"{server_address(self._parts)}/…"
        self._process = Quarantine(_TIME_LIMIT_S)
        self._pace = Pace(spec.max_fps)
        self._waiting: _Shown | None = None
        self._in_flight = 0
        self._sent = 0
        self._dropped: Counter[str] = Counter()
        self._detail = ""
        self._address: str | None = None  # to which the process is connected
        self._task: asyncio.Task[None] | None = None  # runs while a frame waits
        self._closing = asyncio.Event()

    def put(self, pixels: Pixels, detections: Detections, captured_at_s: float) -> None:
        """Queue a frame without waiting. The caller must not change the pixels afterwards."""
        if self._pace.comes_too_soon(captured_at_s):
            return
        if self._closing.is_set():
            self._dropped["closed"] += 1
            return
        if self._waiting is not None:
            self._dropped["disconnected" if self._detail else "superseded"] += 1
        self._waiting = _Shown(pixels, detections, captured_at_s)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"video of stream {self._stream_id}")

    def status(self) -> SinkStatus:
        """Return the sink's counters and its current problem, if any."""
        return SinkStatus(
            type=self._spec.type,
            target=self._target,
            sent=self._sent,
            waiting=self._in_flight + (self._waiting is not None),
            dropped=dict(self._dropped),
            detail=self._detail,
        )

    async def close(self, timeout_s: float) -> None:
        """Publish the frame that waits, and end the video. Stop after ``timeout_s`` seconds."""
        self._closing.set()
        try:
            async with asyncio.timeout(timeout_s):
                if self._task is not None:
                    await asyncio.shield(self._task)
                if self._address is not None:
                    await self._process.run(finish)
        except (TimeoutError, ServeAppError):
            pass
        finally:
            if self._task is not None:
                self._task.cancel()
            await self._process.close()
            if left := self._in_flight + (self._waiting is not None):
                self._dropped["closed"] += left
            self._in_flight, self._waiting = 0, None

    async def _run(self) -> None:
        """Publish frames until none waits."""
        pauses_s = retry_pauses_s()
        try:
            while (shown := self._waiting) is not None:
                self._waiting, self._in_flight = None, 1
                try:
                    await self._publish(shown)
                except Exception as exc:  # also a bug, which must not stop later frames
                    self._fail(exc)
                    await self._pause(next(pauses_s))
                else:
                    self._in_flight = 0
                    self._sent += 1
                    self._set_detail("")
                    pauses_s = retry_pauses_s()
        finally:
            self._task = None

    async def _publish(self, shown: _Shown) -> None:
        data, width_px, height_px = await asyncio.to_thread(self._encode, shown)
        if self._address is None:
            self._address = (await self._guard.resolve(self._parts.hostname or "", self._parts.port or _PORT))[0]
        channel = Channel(self._url_of(self._address), width_px, height_px, self._spec.max_fps, self._hwaccel)
        await self._process.run(publish, channel, data, shown.captured_at_s)

    def _encode(self, shown: _Shown) -> tuple[bytes, int, int]:
        """Return the frame with its boxes as planes of Y, U and V, and its width and height."""
        small = draw_small(shown.pixels, shown.detections if self._spec.boxes else Detections.empty())
        return cv2.cvtColor(small, cv2.COLOR_BGR2YUV_I420).tobytes(), small.shape[1], small.shape[0]

    def _url_of(self, address: str) -> str:
        """Return the URL with the address that was checked instead of the host's name, which may change its address."""
        credentials, at, _ = self._parts.netloc.rpartition("@")
        host = f"[{address}]" if ":" in address else address
        netloc = f"{credentials}{at}{host}:{self._parts.port or _PORT}"
        return urlunsplit(self._parts._replace(netloc=netloc))

    def _fail(self, exc: Exception) -> None:
        self._in_flight, self._address = 0, None
        self._dropped["disconnected"] += 1
        match exc:
            case PoisonPicture():
                self._set_detail("the process that encodes the video has crashed or hung")
            case socket.gaierror():
                self._set_detail("the host has no address")
            case ServeAppError():
                self._set_detail(exc.detail)
            case _:
                self._set_detail(f"the video cannot be published: {type(exc).__name__}")

    def _set_detail(self, detail: str) -> None:
        if detail and not self._detail:
            logger.warning("stream %s: sink %s: %s", self._stream_id, self._target, detail)
        elif self._detail and not detail:
            logger.info("stream %s: sink %s works again", self._stream_id, self._target)
        self._detail = detail

    async def _pause(self, pause_s: float) -> None:
        """Wait for ``pause_s`` seconds or until the sink begins to close. Then give up the frame that waits."""
        try:
            async with asyncio.timeout(pause_s):
                await self._closing.wait()
        except TimeoutError:
            return
        if self._waiting is not None:
            self._waiting = None
            self._dropped["closed"] += 1

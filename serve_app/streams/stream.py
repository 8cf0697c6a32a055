"""A running stream, which sends the frames of its source to the Detector and publishes the results as events.

This module does not depend on Ray.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from serve_app.collection.collector import Collector
from serve_app.config import StreamArgs
from serve_app.errors import InvalidParameter, ModelChanged, PoisonPicture, ServeAppError
from serve_app.images.fitting import place
from serve_app.images.outlines import with_outlines
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.drift import DriftChange
from serve_app.schemas.recording import ClipNotice
from serve_app.schemas.streams import Gap, Policy, Regions, State, StateChange, StreamResult, StreamSpec, StreamStatus
from serve_app.sinks import open_sink
from serve_app.streams.bookmark import Bookmark, BookmarkFile
from serve_app.streams.capture.capture import Capture
from serve_app.streams.frame_detector import FrameDetector
from serve_app.streams.outputs.events import EventLog
from serve_app.streams.outputs.recording import Recorder
from serve_app.streams.outputs.snapshot import Snapshots
from serve_app.streams.progress import Progress
from serve_app.streams.scene.health import HealthCheck
from serve_app.streams.scene.scene import Scene, SceneEvent, type_of
from serve_app.types import Answer, EventPage, Frame, ModelInfo, Pixels, Snapshot
from serve_app.video.source import Source
from serve_app.video.timestamps import USUAL_FPS

logger = logging.getLogger(__name__)

_FRAME_TIMEOUT_S = 60.0  # long enough for the replacement of a dead Detector
_RETRY_PAUSE_S, _OTHER_MODEL_PAUSE_S = 0.2, 1.0
_STATE_POLL_INTERVAL_S = 0.25
_CLOSE_TIMEOUT_S = 5.0

P = ParamSpec("P")
T = TypeVar("T")


def policy_of(spec: StreamSpec, source: Source) -> Policy:
    """Return the policy in the spec, or the default policy for this kind of source."""
    return spec.policy or ("drop_oldest" if source.is_live else "wait")


class Stream:
    """Sends the frames of a source to the Detector, one at a time. Keeps the latest result, the counters and events.

    If a stream has run before, it continues from its bookmark. Use a stream from one event loop only.
    """

    def __init__(
        self,
        spec: StreamSpec,
        source: Source,
        detector: FrameDetector,
        bookmark_file: BookmarkFile,
        args: StreamArgs,
        guard: AddressGuard,
        max_pixels: int,
        collector: Collector | None = None,
    ) -> None:
        """Prepare the stream. Frames of more than ``max_pixels`` are refused. It closes ``collector`` at its end.

        Raise StartError if the library for a sink is not installed, and InvalidParameter if a sink is not valid.
        """
        output_dir = args.output_folder()
        self._spec = spec
        self._params = spec.detect.to_params()
        self._source = source
        self._policy: Policy = policy_of(spec, source)
        self._detector = detector
        self._collector = collector
        self._bookmark_file = bookmark_file
        self._bookmark = bookmark_file.read() or Bookmark()
        self._is_stopped = False
        self._is_bookmark_failing = False
        # The bookmark of the previous process. It is set to None when the gap event is sent.
        self._gap_after = self._bookmark if self._bookmark.marked_at_s else None
        self._started_at_s = time.monotonic()
        self._state: State = "starting"
        self._progress = Progress()
        self._progress.resume(self._bookmark)
        self._detecting: asyncio.Task[None] | None = None  # set once the Detector is connected
        self._scene: Scene | None = None  # set at the first frame
        # A folder has unrelated images, which do not show one scene.
        is_checked = spec.scene_health.enabled and source.kind != "folder"
        self._health = HealthCheck(spec.scene_health, self._bookmark.scene) if is_checked else None
        # A thread to convert and scale frames, because that takes milliseconds and would block the event loop.
        self._frame_thread = ThreadPoolExecutor(1, "frame")
        self._latest: tuple[Frame, Pixels, Answer, StreamResult] | None = None
        self._snapshots = Snapshots()
        self._frame_processed = asyncio.Event()  # set and then replaced whenever ``_latest`` changes
        self._sinks = [open_sink(sink, spec.id, output_dir, guard) for sink in spec.sinks]
        self._events = EventLog(spec.id, self._sinks, self._bookmark.next_event_id)
        self._recorder = (
            Recorder(spec.recording, output_dir / spec.id, on_clip=self._on_clip)
            if spec.recording and output_dir
            else None
        )
        self._capture = Capture(
            source,
            self._progress,
            policy=self._policy,
            loop=spec.source.loop,
            max_fps=spec.max_fps,
            max_pixels=max_pixels,
            after=self._bookmark.position,
            stream_time_s=self._bookmark.stream_time_s,
            hwaccel=args.hwaccel,
            guard=guard,
        )

    async def run(self) -> None:
        """Run until the source ends or ``stop`` is called. Log and raise any unexpected error."""
        self._loop = asyncio.get_running_loop()
        state_watcher = asyncio.create_task(self._watch_state())
        try:
            self._params.to_options(await self._detector.connect())
            self._detecting = asyncio.create_task(self._detect_frames())
            await asyncio.wait([self._detecting])
            if not self._detecting.cancelled():
                self._detecting.result()
        except ServeAppError as exc:  # for example, if the model lacks a requested class
            self._progress.set_source_state("failed", exc.detail)
        except Exception as exc:  # a bug; the supervisor then starts a new process, which may succeed
            logger.exception("stream %s failed", self._spec.id)
            self._progress.set_source_state("failed", f"internal error: {type(exc).__name__}")
            raise
        finally:
            self.abort()
            state_watcher.cancel()
            self._publish_state()
            await self._close()
            self._save_next_event_id()

    def stop(self) -> None:
        """Make ``run`` return after the frame in flight."""
        self._is_stopped = True
        self._capture.stop()

    def abort(self) -> None:
        """Make ``run`` return without waiting for the frame in flight. ``run`` still closes sinks and files."""
        if self._detecting is not None:
            self._detecting.cancel()

    def status(self) -> StreamStatus:
        """Return the current status. Its ``restarts`` is always 0, because only the supervisor counts restarts."""
        progress, bookmark = self._progress, self._bookmark
        state, detail = progress.health()
        return StreamStatus(
            stream_id=self._spec.id,
            state=state,
            detail=detail,
            source=self._source.name,
            policy=self._policy,
            tags=self._spec.tags,
            uptime_s=round(time.monotonic() - self._started_at_s, 1),
            source_fps=progress.source_fps,
            captured=progress.captured,
            processed=progress.processed,
            dropped=dict(progress.dropped),
            passed_over=progress.passed_over,
            reconnects=progress.reconnects,
            camera_fps=round(progress.camera_rate.per_second(), 2),
            processed_fps=round(progress.processed_rate.per_second(), 2),
            dropped_fps=round(progress.dropped_rate.per_second(), 2),
            zones=self._scene.zones if self._scene else bookmark.zones,
            lines=self._scene.lines if self._scene else bookmark.lines,
            sinks=[sink.status() for sink in self._sinks],
            recording=self._recorder.status() if self._recorder else None,
            decoding=progress.decoding_status(),
            scene_health=self._health.health if self._health else None,
            label=self._scene.label if self._scene else bookmark.label,
            latest=self._latest[3] if self._latest else None,
        )

    async def events(self, after: int | None, within_s: float) -> EventPage:
        """Wait for events and return them, as ``EventLog.page`` does."""
        return await self._events.page(after, within_s)

    async def snapshot(
        self, after: int | None, within_s: float, boxes: bool, max_side_px: int | None = None
    ) -> Snapshot | None:
        """Wait for a processed frame with an id above ``after``, and return the newest one.

        Return None if there is none within ``within_s`` seconds.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._latest is None or (after is not None and self._latest[0].frame_id <= after):
                    await self._frame_processed.wait()
        except TimeoutError:
            return None
        frame, pixels, answer, _ = self._latest
        return await self._snapshots.take(frame, pixels, answer if boxes else None, max_side_px)

    def add_drift(self, change: DriftChange) -> None:
        """Add the event ``drift``, because the drift monitor has noticed a change."""
        self._events.add("drift", change)
        self._save_next_event_id()

    async def set_regions(self, regions: Regions) -> None:
        """Change the zones and lines that are counted.

        Raise StartError, and keep the previous regions, if tracking is not installed.
        """
        spec = self._spec.model_copy(update={"zones": regions.zones, "lines": regions.lines})
        if self._scene is not None:
            await asyncio.to_thread(self._scene.replace, spec)
        self._spec = spec

    async def _close(self) -> None:
        self._capture.stop()
        if self._recorder:
            await asyncio.to_thread(self._recorder.close, _CLOSE_TIMEOUT_S)
            await asyncio.sleep(0)  # so that the last recording events reach the sinks before the sinks close
        await asyncio.gather(*(sink.close(_CLOSE_TIMEOUT_S) for sink in self._sinks))
        if self._collector:
            await asyncio.to_thread(self._collector.close, _CLOSE_TIMEOUT_S)
        self._detector.close()
        self._frame_thread.shutdown(wait=False)

    async def _detect_frames(self) -> None:
        self._capture.start()
        while (frame := await self._capture.take()) is not None:
            try:
                pixels = await self._in_thread(frame.pixels)
            except ServeAppError as exc:  # an image that cannot be decoded
                self._progress.drop(exc.code)
                continue
            if self._scene is None:
                fps = self._progress.source_fps or USUAL_FPS
                self._scene = await asyncio.to_thread(Scene, self._spec, fps, self._bookmark)  # may import libraries
            if self._health is not None and self._health.is_due(frame):
                change = await self._in_thread(self._health.update, frame, pixels)
                if change is not None:
                    self._events.add("scene_health", change)
                    self._save_next_event_id()
            if await self._in_thread(self._scene.is_still, frame, pixels):
                self._progress.drop("no_motion")
                self._add_events(self._scene.update_still(frame, pixels))
            else:
                await self._detect(frame, pixels, self._scene)
            self._update_bookmark(frame)
        if not self._is_stopped:
            self._progress.complete()

    async def _detect(self, frame: Frame, pixels: Pixels, scene: Scene) -> None:
        self._progress.detection_started()
        self._update_bookmark(frame)
        answer = await self._detect_with_retries(frame, pixels)
        if answer is None:
            return
        self._progress.detection_succeeded()
        if self._state != "running":
            self._publish_state()  # now, because a short stream may end before the next poll
        if self._gap_after is not None:
            self._add_gap(frame, self._gap_after)
            self._gap_after = None
        age_s = time.time() - frame.captured_at_s
        detections, events = scene.update(answer, frame)
        answer = replace(answer, detections=detections, timing=replace(answer.timing, total_s=age_s))
        result = StreamResult.from_answer(answer, frame, stream_id=self._spec.id)
        self._latest = frame, pixels, answer, result
        self._frame_processed.set()
        self._frame_processed = asyncio.Event()
        self._events.add("result", result)
        self._add_events(events)
        if self._recorder:
            self._recorder.put(pixels, answer.detections, frame.captured_at_s)

    async def _detect_with_retries(self, frame: Frame, pixels: Pixels) -> Answer | None:
        """Return the Detector's answer for a frame, or None if the Detector fails on this frame.

        Retry until the Detector is available. Meanwhile, the capture thread drops newer frames of a live source.
        """
        while True:
            try:
                model = await self._detector.model(_FRAME_TIMEOUT_S)
                return await asyncio.wait_for(self._detect_once(pixels, model), _FRAME_TIMEOUT_S)
            except PoisonPicture as exc:
                self._progress.detection_failed(exc.code, exc.detail)
                return None
            except ModelChanged:
                continue
            except InvalidParameter as exc:  # the Detector now serves a model that lacks a requested class
                self._progress.detection_refused(exc.detail)
                await asyncio.sleep(_OTHER_MODEL_PAUSE_S)
                self._detector.forget_model()
            except (ServeAppError, TimeoutError) as exc:
                self._progress.detection_refused(str(exc) or "the detector does not answer")
                await asyncio.sleep(_RETRY_PAUSE_S)
            except Exception as exc:  # the model failed on this batch, but the next frame may succeed
                logger.exception("stream %s lost frame %d", self._spec.id, frame.frame_id)
                self._progress.detection_failed("error", f"the detector failed: {type(exc).__name__}")
                return None

    async def _detect_once(self, pixels: Pixels, model: ModelInfo) -> Answer:
        options = self._params.to_options(model)
        with self._detector.pool.lease() as slot:
            started_at_s = time.monotonic()
            fitted = await self._in_thread(place, pixels, model.shapes, slot.frame, model.fitting)
            decode_s = time.monotonic() - started_at_s
            superseded = self._progress.take_superseded()
            answer = await self._detector.detect(
                slot, fitted, model, options, time_left_s=_FRAME_TIMEOUT_S, superseded=superseded
            )
        if self._collector:
            self._collector.offer(pixels, answer, model, options, self._spec.id)
        detections, size = answer.detections, (answer.width_px, answer.height_px)
        if detections.masks is not None:
            detections = await self._in_thread(with_outlines, detections, *size, self._params.mask)
        return replace(answer, detections=detections, timing=replace(answer.timing, decode_s=decode_s))

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._frame_thread, call)

    def _update_bookmark(self, frame: Frame) -> None:
        """Save a bookmark, so that the next process continues after this frame.

        We write it in the event loop, so that no client receives an event before its id is saved. Otherwise the next
        process could use that id again.
        """
        progress, scene, is_live = self._progress, self._scene, self._source.is_live
        assert scene is not None
        self._bookmark = Bookmark(
            next_frame_id=progress.captured if is_live else frame.frame_id + 1,
            next_event_id=self._events.next_id,
            next_track_id=scene.next_track_id,
            position=None if is_live else frame.position,
            stream_time_s=frame.stream_time_s,
            processed=progress.processed,
            dropped=dict(progress.dropped) if is_live else progress.dropped_up_to(frame.frame_id),
            reconnects=progress.reconnects,
            zones=scene.zones,
            lines=scene.lines,
            label=scene.label,
            scene=self._health.memory if self._health else self._bookmark.scene,
            marked_at_s=time.time(),
        )
        self._save_bookmark()

    def _save_bookmark(self) -> None:
        try:
            self._bookmark_file.write(self._bookmark)
        except OSError as exc:
            if not self._is_bookmark_failing:
                logger.error("stream %s: its progress cannot be saved: %s", self._spec.id, exc.strerror)
            self._is_bookmark_failing = True
        else:
            self._is_bookmark_failing = False

    def _add_gap(self, frame: Frame, before: Bookmark) -> None:
        lost = self._progress.dropped["restart"] - before.dropped.get("restart", 0)
        away_s = round(frame.captured_at_s - before.marked_at_s, 3)
        self._events.add("gap", Gap(next_frame_id=frame.frame_id, lost=lost, away_s=away_s))

    def _add_events(self, events: Sequence[SceneEvent]) -> None:
        for event in events:
            self._events.add(type_of(event), event)

    def _on_clip(self, clip: ClipNotice) -> None:
        # The recorder calls this in its own thread, but the event log may be used only in the event loop.
        self._loop.call_soon_threadsafe(self._events.add, "recording", clip)

    async def _watch_state(self) -> None:
        """Publish state changes. We poll the state, because nothing signals the beginning of a stall."""
        while True:
            self._publish_state()
            await asyncio.sleep(_STATE_POLL_INTERVAL_S)

    def _publish_state(self) -> None:
        state, detail = self._progress.health()
        if state == self._state:
            return
        self._events.add("state", StateChange(state=state, previous=self._state, detail=detail))
        self._state = state
        self._save_next_event_id()

    def _save_next_event_id(self) -> None:
        self._bookmark = self._bookmark.model_copy(update={"next_event_id": self._events.next_id})
        self._save_bookmark()

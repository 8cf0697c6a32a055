"""The StreamWorker: a named, detached Ray actor that runs one stream's continuous capture loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import cv2
import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from serve_app.errors import Conflict, InvalidParameter, ModelChanged, NotFound, ServeAppError, StartError
from serve_app.letterbox import letterbox
from serve_app.serving import DetectorClient, RayInstrument
from serve_app.stream_schemas import Policy, StreamResult, StreamSpec, StreamStatus
from serve_app.streams.capture import Capture
from serve_app.streams.progress import Progress
from serve_app.streams.scene import Scene
from serve_app.streams.source import Source
from serve_app.telemetry import STREAM_AGE_MS, STREAM_FRAMES, Telemetry
from serve_app.types import Answer, Frame, Json, ModelInfo, Pixels

logger = logging.getLogger("ray.serve")

NAMESPACE = "sightline"
_NAME_PREFIX = "stream:"
_SLOTS = 1  # for the one frame in flight
_FRAME_TIMEOUT_S = 10.0
_MAX_PIXELS = 50_000_000  # of a frame
_RETRY_PAUSE_S = 0.2
_USUAL_FPS = 25.0  # of a source that does not say
_OWNER_CHECK_PERIOD_S = 10.0  # it asks much of the controller


class StreamWorker:
    """Feeds one source's frames to the Detector, one at a time, and keeps the latest result and the counters.

    Its loop starts here in ``__init__``, since that is what Ray runs again when the actor died. It ends itself when
    its application is deleted or Serve is shut down; a rolling update or a restarting controller is not that.
    """

    def __init__(self, spec: StreamSpec, source: Source, application: str) -> None:
        cv2.setNumThreads(1)
        self._spec = spec
        self._source = source
        self._policy: Policy = spec.policy or ("drop_oldest" if source.is_live else "wait")
        self._application = application
        self._started_s = time.monotonic()
        self._progress = Progress()
        self._scene: Scene | None = None  # once the first frame is there
        self._latest: StreamResult | None = None
        self._telemetry = Telemetry(RayInstrument)
        self._detector = DetectorClient(
            # Not asked whether it exists: a worker that restarts while the controller does must not die of it.
            serve.get_deployment_handle("Detector", app_name=application, _check_exists=False),
            slots=_SLOTS,
            traffic="stream",
            tenant=spec.id,
            # The handle is used from our own loop; configs/serve.env would have it on the loop that made it.
            _run_router_in_separate_loop=True,
        )
        self._capture = Capture(
            source,
            self._progress,
            policy=self._policy,
            loop=spec.source.loop,
            max_fps=spec.max_fps,
            max_pixels=_MAX_PIXELS,
        )
        threading.Thread(target=lambda: asyncio.run(self._run()), name="detect", daemon=True).start()

    def __repr__(self) -> str:
        return f"StreamWorker({self._spec.id})"  # what the Ray dashboard and the logs show

    def status(self) -> Json:
        """See ``StreamStatus``."""
        progress = self._progress
        state, detail = progress.health()
        return StreamStatus(
            stream_id=self._spec.id,
            state=state,
            detail=detail,
            source=self._source.name,
            policy=self._policy,
            uptime_s=round(time.monotonic() - self._started_s, 1),
            captured=progress.captured,
            processed=progress.processed,
            dropped=dict(progress.dropped),
            reconnects=progress.reconnects,
            camera_fps=round(progress.camera_rate.per_second(), 2),
            processed_fps=round(progress.processed_rate.per_second(), 2),
            dropped_fps=round(progress.dropped_rate.per_second(), 2),
            zones=self._scene.zones if self._scene else {},
            lines=self._scene.lines if self._scene else {},
            latest=self._latest,
        ).model_dump()

    def stop(self) -> None:
        """Close the source and give the shared memory back."""
        self._capture.stop()
        self._detector.close()

    async def _run(self) -> None:
        owner = asyncio.create_task(self._end_with_application())
        try:
            await self._detect_until_the_end()
        except ServeAppError as exc:  # waiting cannot help: a class the model does not know, no shared memory
            self._fail(exc.detail)
        except Exception as exc:  # the loop's last words: without them the stream would stand still unnoticed
            logger.exception("stream %s failed", self._spec.id)
            self._fail(f"internal error: {type(exc).__name__}")
        finally:
            self.stop()
        await owner  # a stream that is over still answers for its status

    def _fail(self, detail: str) -> None:
        self._progress.source_is("failed", detail)

    async def _detect_until_the_end(self) -> None:
        self._spec.detect.to_options(await self._detector.connect())
        self._capture.start()
        while (frame := await self._capture.take()) is not None:
            try:
                pixels = frame.pixels()
            except ServeAppError as exc:  # a picture of a folder
                self._progress.drop(exc.code)
                continue
            if self._scene is None:
                fps = self._progress.source_fps or _USUAL_FPS
                self._scene = await asyncio.to_thread(Scene, self._spec, fps)  # it may load a library
            if self._scene.is_still(frame, pixels):
                self._progress.drop("no_motion")
            else:
                await self._detect(frame, pixels, self._scene)
        self._progress.finished()

    async def _detect(self, frame: Frame, pixels: Pixels, scene: Scene) -> None:
        """One frame's result, however long the Detector is away; only newer frames can be lost meanwhile."""
        self._progress.asking()
        while True:
            try:
                model = await asyncio.wait_for(self._detector.model(), _FRAME_TIMEOUT_S)
                answer = await asyncio.wait_for(self._ask(pixels, model), _FRAME_TIMEOUT_S)
                break
            except (InvalidParameter, StartError):
                raise
            except ModelChanged:
                continue
            except (ServeAppError, TimeoutError) as exc:
                self._progress.refused(str(exc) or "the detector does not answer")
                await asyncio.sleep(_RETRY_PAUSE_S)
            except Exception as exc:  # the engine failed on this batch: the next frame may fare better
                logger.exception("stream %s lost frame %d", self._spec.id, frame.frame_id)
                self._progress.lost("error", f"the detector failed: {type(exc).__name__}")
                return
        self._progress.answered()
        age_s = time.time() - frame.captured_at_s
        answer.timing_s["total"] = age_s
        track_ids, _ = scene.update(answer, frame)
        self._latest = StreamResult.from_answer(answer, frame, stream_id=self._spec.id, track_ids=track_ids.tolist())
        self._telemetry.answered(answer, "stream")
        self._telemetry.record(STREAM_AGE_MS, age_s * 1e3, stream_id=self._spec.id)

    async def _ask(self, pixels: Pixels, model: ModelInfo) -> Answer:
        options = self._spec.detect.to_options(model)
        with self._detector.pool.lease() as slot:
            began_s = time.monotonic()
            box = letterbox(pixels, slot.pixels)
            decode_s = time.monotonic() - began_s
            answer = await self._detector.detect(slot, box, model, options, time_left_s=_FRAME_TIMEOUT_S)
        answer.timing_s["decode"] = decode_s
        return answer

    def _report_frames(self) -> None:
        progress = self._progress
        totals = {"captured": progress.captured, "processed": progress.processed, **progress.dropped}
        self._telemetry.record_totals(STREAM_FRAMES, totals, "outcome", stream_id=self._spec.id)

    async def _end_with_application(self) -> None:
        answers_gone = 0
        while answers_gone < 2:  # one alone may be a controller that is between two lives
            await asyncio.sleep(_OWNER_CHECK_PERIOD_S)
            self._report_frames()
            answers_gone = answers_gone + 1 if await asyncio.to_thread(_is_gone, self._application) else 0
        logger.info("stream %s ends: its application is gone", self._spec.id)
        self.stop()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def start(spec: StreamSpec, source: Source, application: str) -> ActorHandle:
    """Start a stream. Raises Conflict when its id is taken, NotFound when there is no such application."""
    if _is_gone(application):
        raise NotFound(f"no application {application!r} is being served")
    actor = ray.remote(StreamWorker).options(
        name=_NAME_PREFIX + spec.id,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        max_concurrency=2,  # a status is answered while another call waits
        num_cpus=0.05,
    )
    try:
        return actor.remote(spec, source, application)
    except ValueError as exc:  # Ray's word for a name that is taken
        raise Conflict(f"there is a stream {spec.id!r} already; stop it first") from exc


def find(stream_id: str) -> ActorHandle:
    """A running stream's actor. Raises NotFound."""
    try:
        return ray.get_actor(_NAME_PREFIX + stream_id, namespace=NAMESPACE)
    except ValueError as exc:
        raise NotFound(f"no stream {stream_id!r}") from exc


def stream_ids() -> list[str]:
    """Every running stream, sorted."""
    actors: list[dict[str, Any]] = ray.util.list_named_actors(all_namespaces=True)
    names = (actor["name"] for actor in actors if actor["namespace"] == NAMESPACE)
    return sorted(name.removeprefix(_NAME_PREFIX) for name in names if name.startswith(_NAME_PREFIX))


def stop(stream_id: str) -> None:
    """End a stream for good. Raises NotFound."""
    actor = find(stream_id)
    try:
        ray.get(actor.stop.remote(), timeout=_FRAME_TIMEOUT_S)
    finally:
        ray.kill(actor, no_restart=True)


def _is_gone(application: str) -> bool:
    """The application was deleted, or Serve shut down. A controller that is restarting says nothing of the kind."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return True
    except Exception:  # whatever it is, it does not say that the application is gone
        return False
    try:
        status = serve.status().applications.get(application)
    except Exception:
        return False
    return status is None or status.status == "DELETING"

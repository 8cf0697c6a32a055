"""Fakes of the HTTP API's backend, metrics and streams."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from serve_app.api.backend import VideoRequest
from serve_app.detections import Detections
from serve_app.errors import Conflict, Forbidden, NotFound, Overloaded, ServeAppError, Unavailable, Undecodable
from serve_app.images.drawing import encode_jpeg
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.recording import FilePiece, RecordingList
from serve_app.schemas.streams import Regions, SourceSpec, State, StateChange, StreamSpec, StreamStatus
from serve_app.streams.outputs.events import EventLog
from serve_app.streams.outputs.recordings import Recordings
from serve_app.telemetry.figures import Figures
from serve_app.telemetry.metrics import REFUSALS
from serve_app.telemetry.overview import ModelFigures, ServiceFigures
from serve_app.types import (
    Answer,
    DetectOptions,
    DetectorState,
    EngineInfo,
    EventPage,
    InputShape,
    ModelInfo,
    PictureRequest,
    Principal,
    Snapshot,
    Timing,
)

MODEL = ModelInfo(
    EngineInfo("fake", "0123456789ab", "fake", ("cat", "dog"), InputShape.square(640), end_to_end=False),
    version="0123456789ab",
    defaults=DetectOptions(confidence=0.5, iou=0.7, max_detections=300),
)


class FakeBackend:
    """A fake backend that finds one dog in every image. The dog's width in pixels is the image's size in bytes.

    The backend refuses the image ``b"bad"``, and never answers for the image ``b"slow"``.
    """

    def __init__(self) -> None:
        self.pictures: list[bytes] = []
        self.options: list[DetectOptions] = []
        self.models_asked: list[str] = []
        self.tenants: list[str] = []
        self.failure: Exception | None = None
        self.is_full = False
        self.model = MODEL
        self.shapes: list[tuple[int, ...]] = []  # those of model inputs

    def admit(self, tenant: str, model: str) -> None:
        if self.is_full:
            raise Overloaded("preprocessor.slots: all slots are in use", limit="preprocessor.slots")

    async def ready(self) -> DetectorState:
        if self.failure:
            raise self.failure
        return DetectorState(MODEL)

    async def models(self) -> list[ModelStatus]:
        return [ModelStatus.of("default", DetectorState(MODEL)), ModelStatus(name="plates", state="asleep")]

    async def figures(self) -> ServiceFigures:
        return ServiceFigures(
            [ModelFigures(ModelStatus.of("default", DetectorState(MODEL)), 1, Figures())],
            Figures({(REFUSALS.name, "not_found", ""): 3.0}),
            {"Ingress": 1},
        )

    def dashboard_url(self) -> str | None:
        return "http://127.0.0.1:8265"

    async def source_frame(self, source: SourceSpec) -> bytes:
        if self.failure:
            raise self.failure
        return source.uri.encode()

    async def detect(self, request: PictureRequest) -> Answer:
        data = request.data
        self.pictures.append(data)
        self.models_asked.append(request.params.model)
        self.tenants.append(request.tenant)
        self.options.append(request.params.to_options(MODEL))
        if self.failure:
            raise self.failure
        if data == b"bad":
            raise Undecodable("the image is truncated or corrupt")
        if data == b"slow":
            await asyncio.Event().wait()
        box = np.array([[0, 0, len(data), 10]], np.float32)
        return Answer(
            Detections(box, np.array([0.75], np.float32), np.array([1], np.int32), ("dog",)),
            width_px=len(data),
            height_px=10,
            model=MODEL.name,
            batch_size=3,
            timing=Timing(decode_s=0.001, queue_s=0.002, inference_s=0.003, postprocess_s=0.004),
            input_shape=MODEL.input_shape,
            annotated=encode_jpeg(np.zeros((8, 8, 3), np.uint8)) if request.annotate else None,
        )

    async def describe(self, model: str) -> ModelInfo:
        self.models_asked.append(model)
        if self.failure:
            raise self.failure
        return self.model

    async def infer(
        self, model: str, planes: NDArray[np.floating], *, tenant: str, time_left_s: float
    ) -> tuple[NDArray[np.float32], str]:
        """Return a tensor of as many candidates as the image has rows. All its numbers are that of its first pixel."""
        self.models_asked.append(model)
        self.tenants.append(tenant)
        self.shapes.append(planes.shape)
        if self.failure:
            raise self.failure
        return np.full((6, planes.shape[1]), planes[0, 0, 0], np.float32), MODEL.engine.version

    async def detect_video(self, request: VideoRequest) -> list[Answer]:
        """Answer each byte of the video as if it were a frame."""
        frames = [request.data[at : at + 1] for at in range(request.stride - 1, len(request.data), request.stride)]
        return [
            await self.detect(PictureRequest(frame, request.params, request.time_left_s, tenant=request.tenant))
            for frame in frames
        ]


class FakeMetrics:
    """Fake metrics that record every call."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.limits: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.unreadable = 0

    def refused(self, error: ServeAppError) -> None:
        self.refusals.append(error.code)
        self.limits.append(error.limit)

    def requested(self, key: str, outcome: str) -> None:
        self.requests.append((key, outcome))

    def keys_reload_failed(self) -> None:
        self.unreadable += 1


class FakeStreams:
    """Fake streams, to which the test adds events and frames."""

    def __init__(self) -> None:
        self.specs: dict[str, StreamSpec] = {}
        self.owners: dict[str, str | None] = {}
        self.logs: dict[str, EventLog] = {}
        self.shots: dict[str, Snapshot] = {}
        self.latest: StreamStatus | None = None
        self.failure: ServeAppError | None = None
        self.outages = 0  # how many of the next calls of ``events`` fail
        self.recorded: dict[str, Recordings] = {}

    def happen(self, stream_id: str, state: str = "running") -> None:
        """Add an event to a stream."""
        self.logs[stream_id].add("state", StateChange(state=state, previous="starting", detail=""))

    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        if self.failure:
            raise self.failure
        if spec.id in self.specs:
            raise Conflict(f"stream {spec.id!r} already exists")
        self.specs[spec.id], self.logs[spec.id] = spec, EventLog(spec.id, [])
        self.owners[spec.id] = who.owner
        return await self.status(spec.id, who)

    async def replace(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        self._find(spec.id, who)
        if self.failure:
            raise self.failure
        self.specs[spec.id] = spec
        return await self.status(spec.id, who)

    async def all(self, who: Principal) -> list[StreamStatus]:
        visible = [stream_id for stream_id in sorted(self.specs) if who.may_see(self.owners[stream_id])]
        return [await self.status(stream_id, who) for stream_id in visible]

    async def states(self, who: Principal) -> dict[str, State]:
        return {status.stream_id: status.state for status in await self.all(who)}

    async def status(self, stream_id: str, who: Principal) -> StreamStatus:
        spec = self._find(stream_id, who)
        return self.latest or StreamStatus(
            stream_id=stream_id,
            state="paused" if spec.paused else "running",
            owner=self.owners[stream_id],
            source="camera",
            policy="drop_oldest",
            tags=spec.tags,
        )

    async def delete(self, stream_id: str, who: Principal) -> None:
        self._find(stream_id, who)
        del self.specs[stream_id]

    async def pause(self, stream_id: str, who: Principal) -> StreamStatus:
        self.specs[stream_id] = self._find(stream_id, who).model_copy(update={"paused": True})
        return await self.status(stream_id, who)

    async def resume(self, stream_id: str, who: Principal) -> StreamStatus:
        self.specs[stream_id] = self._find(stream_id, who).model_copy(update={"paused": False})
        return await self.status(stream_id, who)

    async def regions(self, stream_id: str, who: Principal) -> Regions:
        spec = self._find(stream_id, who)
        return Regions(zones=spec.zones, lines=spec.lines)

    async def set_regions(self, stream_id: str, who: Principal, regions: Regions) -> StreamStatus:
        self.specs[stream_id] = self._find(stream_id, who).model_copy(update=dict(regions))
        return await self.status(stream_id, who)

    async def set_owner(self, stream_id: str, who: Principal, owner: str) -> StreamStatus:
        if not who.is_admin:
            raise Forbidden("owner: only an administrator can set it")
        self._find(stream_id, who)
        if self.owners[stream_id] not in {None, owner}:
            raise Conflict("owner: the stream has another owner")
        self.owners[stream_id] = owner
        return await self.status(stream_id, who)

    async def events(self, stream_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        self._find(stream_id, who)
        if self.outages:
            self.outages -= 1
            raise Unavailable("the supervisor has died")
        return await self.logs[stream_id].page(after, min(within_s, 0.05))

    async def snapshot(
        self,
        stream_id: str,
        who: Principal,
        after: int | None,
        within_s: float,
        *,
        boxes: bool,
        max_side_px: int | None = None,
    ) -> Snapshot | None:
        self._find(stream_id, who)
        await asyncio.sleep(0.01)
        shot = self.shots.get("drawn" if boxes else "plain")
        return shot if shot and (after is None or shot.frame_id > after) else None

    async def recordings(self, stream_id: str, who: Principal, before: str | None, limit: int) -> RecordingList:
        self._find(stream_id, who)
        return self.recorded[stream_id].page(before, limit)

    async def read_recording(self, stream_id: str, who: Principal, file_name: str, offset: int, size: int) -> FilePiece:
        self._find(stream_id, who)
        return self.recorded[stream_id].read(file_name, offset, size)

    def _find(self, stream_id: str, who: Principal) -> StreamSpec:
        if stream_id not in self.specs or not who.may_see(self.owners[stream_id]):
            raise NotFound(f"stream {stream_id!r} does not exist")
        return self.specs[stream_id]

"""The StreamSupervisor: the deployment that keeps every registered stream running. See ``streams.supervision``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config import AppArgs
from serve_app.deployments.drift_monitor import forget_stream
from serve_app.deployments.handles import Replicas, detector_name, listen, serves
from serve_app.deployments.ray_internals import max_replica_count
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.ray_workers import RayWorkers
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import SUPERVISOR_MAX_CALLS, DetectorStub, SupervisorStub
from serve_app.schemas.recording import FilePiece, RecordingList
from serve_app.schemas.streams import Regions, State, StreamSpec, StreamStatus
from serve_app.streams.publication import open_publication
from serve_app.streams.store import StreamStore
from serve_app.streams.supervision import Supervision
from serve_app.telemetry.metrics import Telemetry
from serve_app.types import EventPage, ModelInfo, Principal, Snapshot


@serves(SupervisorStub)
class StreamSupervisor:
    """The only replica of its deployment. It lets other deployments call ``Supervision``."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, detectors: Mapping[str, DeploymentHandle], args: AppArgs, drift_monitor: DeploymentHandle
    ) -> None:
        """Start supervising. ``detectors`` maps each model's name to the handle of its Detector deployment."""
        log_as_serve()
        application = serve.get_replica_context().app_name
        telemetry = Telemetry(RayInstrument)
        self._drift_monitor = Replicas(drift_monitor)
        self._forgetting: set[asyncio.Task[None]] = set()  # tell the DriftMonitor which streams were deleted
        self._supervision = Supervision(
            await asyncio.to_thread(StreamStore, args.streams.state_folder(application)),
            RayWorkers(application, args),
            ServeDetectors(application, detectors),
            args.streams,
            args.outbound.guard(),
            telemetry.stream,
            on_deleted=self._forget,
        )
        self._publication = open_publication(args.mqtt, self._supervision, telemetry)
        self._server = await listen(self, SupervisorStub, max_calls=SUPERVISOR_MAX_CALLS, limit="supervisor_calls")

    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        return await self._supervision.create(spec, who)

    async def replace(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        return await self._supervision.replace(spec, who)

    async def all(self, who: Principal) -> list[StreamStatus]:
        return await self._supervision.all(who)

    async def states(self, who: Principal) -> dict[str, State]:
        return await self._supervision.states(who)

    async def status(self, stream_id: str, who: Principal) -> StreamStatus:
        return await self._supervision.status(stream_id, who)

    async def delete(self, stream_id: str, who: Principal) -> None:
        await self._supervision.delete(stream_id, who)

    async def pause(self, stream_id: str, who: Principal) -> StreamStatus:
        return await self._supervision.pause(stream_id, who)

    async def resume(self, stream_id: str, who: Principal) -> StreamStatus:
        return await self._supervision.resume(stream_id, who)

    async def regions(self, stream_id: str, who: Principal) -> Regions:
        return await self._supervision.regions(stream_id, who)

    async def set_regions(self, stream_id: str, who: Principal, regions: Regions) -> StreamStatus:
        return await self._supervision.set_regions(stream_id, who, regions)

    async def set_owner(self, stream_id: str, who: Principal, owner: str) -> StreamStatus:
        return await self._supervision.set_owner(stream_id, who, owner)

    async def events(self, stream_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        return await self._supervision.events(stream_id, who, after, within_s)

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
        return await self._supervision.snapshot(stream_id, who, after, within_s, boxes, max_side_px)

    async def recordings(self, stream_id: str, who: Principal, before: str | None, limit: int) -> RecordingList:
        return await self._supervision.recordings(stream_id, who, before, limit)

    async def read_recording(self, stream_id: str, who: Principal, file_name: str, offset: int, size: int) -> FilePiece:
        return await self._supervision.read_recording(stream_id, who, file_name, offset, size)

    async def check_health(self) -> None:
        """If a background task has failed, raise its error, so that Serve restarts the replica."""
        self._supervision.check()

    def _forget(self, stream_id: str) -> None:
        task = asyncio.create_task(forget_stream(self._drift_monitor, stream_id), name=f"forget {stream_id}")
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def __del__(self) -> None:
        try:
            for task in self._forgetting:
                task.cancel()
            stopping = [self._supervision.stop()]
            if self._publication is not None:  # closed before we unlock the store, after which the next one publishes
                stopping.append(self._publication.close())
            await asyncio.gather(*stopping)
            await self._server.close()
        finally:
            await self._supervision.close()


class ServeDetectors:
    """The Detector deployments of an application. See ``streams.admission.Detectors``."""

    def __init__(self, application: str, detectors: Mapping[str, DeploymentHandle]) -> None:
        self._application = application
        self._detectors = {name: Replicas(detector) for name, detector in detectors.items()}

    def has_model(self, name: str) -> bool:
        return name in self._detectors

    async def model(self, name: str) -> ModelInfo:
        return (await self._detectors[name].call(DetectorStub.state)).model

    async def capacity_fps(self, name: str) -> float:
        return await self._detectors[name].call(DetectorStub.capacity)

    async def max_replica_count(self, name: str) -> int:
        return await asyncio.to_thread(max_replica_count, self._application, detector_name(name))

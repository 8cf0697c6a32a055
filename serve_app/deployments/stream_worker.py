"""The StreamWorker: a named, detached Ray actor around one ``Stream``, and the names that such actors have."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import cv2
import ray
from ray import serve

from serve_app.config import AppArgs
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.handles import detector_name, serves
from serve_app.deployments.ray_internals import is_application_gone
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import WorkerStub
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.streams.capture.source import Source
from serve_app.streams.store import StreamStore
from serve_app.streams.stream import Stream
from serve_app.types import EventPage, Snapshot

logger = logging.getLogger(__name__)

NAMESPACE = "sightline"
_SLOTS = 1  # for the one frame in flight
_SUPERVISED_WITHIN_S = 30.0  # a supervisor calls every few seconds, so there is none after this long without a call
_LAST_FRAME_TIMEOUT_S = 5.0  # the Detector may be gone for good
_CLOSE_TIMEOUT_S = 12.0  # recordings and sinks are given 5 s each
_OWNER_CHECK_INTERVAL_S = 10.0  # long, because the check costs the controller much


@serves(WorkerStub)
class StreamWorker:
    """Runs one stream, for any supervisor that calls ``run``. It goes on when that one dies, and the next one joins it.

    A worker that no supervisor calls any more ends itself once its application is gone. A rolling update does not count
    as that.
    """

    def __init__(self, spec: StreamSpec, source: Source, application: str, args: AppArgs) -> None:
        log_as_serve()
        cv2.setNumThreads(1)
        self._application = application
        self._supervised_at_s = time.monotonic()
        self._name = spec.id
        self._detector = DetectorClient(
            # Whether it exists is not checked: a worker that starts while the controller does must not die of that.
            serve.get_deployment_handle(detector_name(spec.detect.model), app_name=application, _check_exists=False),
            slots=_SLOTS,
            traffic="stream",
            tenant=spec.id,
            # The handle is used on the actor's loop. configs/serve.env would tie it to the loop that made it.
            _run_router_in_separate_loop=True,
        )
        self._arguments = spec, source, args
        self._stream: Stream
        self._running: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None  # when the application is gone

    def __repr__(self) -> str:
        return f"StreamWorker({self._name})"  # what the Ray dashboard and the logs show

    async def ready(self) -> None:
        """Return once there is what takes long to get: the process, and a Detector that answers."""
        self._note_supervisor()
        await self._detector.connect()

    async def node(self) -> str:
        """Return the id of the node that the process is on."""
        return str(ray.get_runtime_context().get_node_id())

    async def run(self) -> StreamStatus:
        """Run the stream, or join the run that there is, and return the last status. The other calls need a run.

        The stream continues where its bookmark lies at this time, because whatever ran it before has stopped.
        """
        self._note_supervisor()
        if self._running is None:
            spec, source, args = self._arguments
            bookmark_file = StreamStore(args.streams.state_folder(self._application)).bookmark_file(spec.id)
            self._stream = Stream(
                spec,
                source,
                self._detector,
                bookmark_file,
                args.streams,
                args.outbound.guard(),
                max_pixels=args.limits.max_pixels,
            )
            self._running = asyncio.create_task(self._stream.run())
        await asyncio.shield(self._running)
        return self._stream.status()

    async def status(self) -> StreamStatus:
        """Return the status now."""
        self._supervised_at_s = time.monotonic()
        return self._stream.status()

    async def events(self, after: int | None, within_s: float) -> EventPage:
        """See ``EventLog.page``."""
        return await self._stream.events(after, within_s)

    async def snapshot(self, after: int | None, within_s: float, boxes: bool) -> Snapshot | None:
        """See ``Stream.snapshot``."""
        return await self._stream.snapshot(after, within_s, boxes)

    async def set_regions(self, regions: Regions) -> None:
        """See ``Stream.set_regions``."""
        await self._stream.set_regions(regions)

    async def stop(self) -> StreamStatus:
        """Stop the stream and return its last status."""
        self._stream.stop()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=_LAST_FRAME_TIMEOUT_S)
            self._stream.abort()
            await asyncio.wait([self._running], timeout=_CLOSE_TIMEOUT_S)
            self._running.cancel()  # it was still waiting for its first Detector
            await asyncio.wait([self._running])
        return self._stream.status()

    def _note_supervisor(self) -> None:
        self._supervised_at_s = time.monotonic()
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_with_application())

    async def _end_with_application(self) -> None:
        while True:
            await asyncio.sleep(_OWNER_CHECK_INTERVAL_S)
            is_supervised = time.monotonic() - self._supervised_at_s < _SUPERVISED_WITHIN_S
            if not is_supervised and await asyncio.to_thread(is_application_gone, self._application):
                break
        logger.info("stream %s ends: its application is gone", self._name)
        if self._running is not None:
            await self.stop()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def name_prefix(application: str) -> str:
    """Return what the names of an application's stream actors begin with."""
    return f"stream:{application}:"


def running(application: str) -> set[str]:
    """Return the full names of the application's stream actors. Blocks."""
    actors: list[dict[str, Any]] = ray.util.list_named_actors(all_namespaces=True)
    names = (actor["name"] for actor in actors if actor["namespace"] == NAMESPACE)
    return {name for name in names if name.startswith(name_prefix(application))}

"""The StreamWorker, which is a named, detached Ray actor that runs one ``Stream``."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import cv2
import ray
from ray import serve

from serve_app.collection.collector import Collector
from serve_app.config import AppArgs
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.drift_monitor import DRIFT_MONITOR, reporter_to, watch_drifting
from serve_app.deployments.handles import Replicas, detector_name, serves
from serve_app.deployments.ray_internals import is_application_gone
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import WorkerStub
from serve_app.drift.answers import change_of
from serve_app.drift.notices import Notice
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.streams.store import StreamStore
from serve_app.streams.stream import Stream
from serve_app.telemetry.metrics import Telemetry
from serve_app.types import EventPage, Snapshot
from serve_app.video.source import Source

logger = logging.getLogger(__name__)

NAMESPACE = "sightline"
_SLOTS = 1  # for the one frame in flight
_SUPERVISOR_TIMEOUT_S = 30.0  # the supervisor is gone if it has not called for this time; it calls every few seconds
_LAST_FRAME_TIMEOUT_S = 5.0  # for the frame in flight, because the Detector may never answer
_CLOSE_TIMEOUT_S = 12.0  # recordings and sinks have 5 s each to finish
_OWNER_CHECK_INTERVAL_S = 10.0  # long, because the check is expensive for Serve's controller


@serves(WorkerStub)
class StreamWorker:
    """The actor that runs one stream. It keeps running when the supervisor dies, and the next supervisor takes it over.

    If no supervisor calls the worker and the application was deleted, the worker exits. A rolling update does
    not delete the application.
    """

    def __init__(self, spec: StreamSpec, source: Source, application: str, args: AppArgs) -> None:
        log_as_serve()
        cv2.setNumThreads(1)
        self._application = application
        self._last_call_at_s = time.monotonic()
        self._name = spec.id
        self._drift_monitor = Replicas(
            serve.get_deployment_handle(DRIFT_MONITOR, app_name=application, _check_exists=False),
            _run_router_in_separate_loop=True,
        )
        self._reporter = reporter_to(self._drift_monitor, args, on_notice=self._publish)
        self._detector = DetectorClient(
            # We do not check that the deployment exists. That check would make a worker fail if Serve's controller
            # happens to restart while the worker starts.
            serve.get_deployment_handle(detector_name(spec.detect.model), app_name=application, _check_exists=False),
            slots=_SLOTS,
            traffic="stream",
            tenant=spec.id,
            observe=partial(self._reporter.observe, spec.detect.model),
            # We create the handle here, but call it on the actor's event loop. With the flags of configs/serve.env and
            # without this option, a handle works only on the loop on which it was created. With this option, the
            # handle's router, which selects a replica, gets a loop of its own, and the handle works on any loop.
            _run_router_in_separate_loop=True,
        )
        self._arguments = spec, source, args
        self._collector = _open_collector(spec, args)
        self._telemetry = Telemetry(RayInstrument)
        self._stream: Stream
        self._running: asyncio.Task[None] | None = None
        self._exiting: asyncio.Task[None] | None = None  # ends the process after the application was deleted

    def __repr__(self) -> str:
        return f"StreamWorker({self._name})"  # Ray's dashboard and logs show this name

    async def ready(self) -> None:
        """Return when this process is running and a Detector answers. Each of them can take long to start."""
        self._note_call()
        await self._detector.connect()

    async def node(self) -> str:
        """Return the id of the node on which this process runs."""
        return str(ray.get_runtime_context().get_node_id())

    async def run(self) -> StreamStatus:
        """Run the stream until it ends, and return its last status. If it already runs, only wait until it ends.

        Call this method before the methods below. The stream continues at its stored bookmark. No other worker can
        write the bookmark, because the supervisor starts a worker only after any earlier worker of the stream has
        ended.
        """
        self._note_call()
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
                collector=self._collector,
            )
            self._running = asyncio.create_task(self._run())
        await asyncio.shield(self._running)
        return self._report()

    async def status(self) -> StreamStatus:
        """Return the stream's current status."""
        self._last_call_at_s = time.monotonic()
        return self._report()

    async def events(self, after: int | None, within_s: float) -> EventPage:
        """Return a page of events: see ``EventLog.page``."""
        return await self._stream.events(after, within_s)

    async def snapshot(
        self, after: int | None, within_s: float, boxes: bool, max_side_px: int | None = None
    ) -> Snapshot | None:
        """Return the newest frame: see ``Stream.snapshot``."""
        return await self._stream.snapshot(after, within_s, boxes, max_side_px)

    async def set_regions(self, regions: Regions) -> None:
        """Replace the stream's zones and lines: see ``Stream.set_regions``."""
        await self._stream.set_regions(regions)

    async def stop(self) -> StreamStatus:
        """Stop the stream and return its last status."""
        self._stream.stop()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=_LAST_FRAME_TIMEOUT_S)
            self._stream.abort()
            await asyncio.wait([self._running], timeout=_CLOSE_TIMEOUT_S)
            self._running.cancel()  # the stream may still wait for its first Detector
            await asyncio.wait([self._running])
        return self._report()

    def _report(self) -> StreamStatus:
        if self._collector is not None:
            self._telemetry.collected(self._collector.kept, self._collector.drops)
        return self._stream.status()

    async def _run(self) -> None:
        drifting = asyncio.create_task(self._watch_drifting())
        try:
            await self._stream.run()
        finally:
            drifting.cancel()
            await self._reporter.close()

    async def _watch_drifting(self) -> None:
        if self._collector is not None:
            await watch_drifting(self._drift_monitor, self._collector.selection, "stream")

    def _publish(self, notice: Notice) -> None:
        self._stream.add_drift(change_of(notice))

    def _note_call(self) -> None:
        self._last_call_at_s = time.monotonic()
        if self._exiting is None:
            self._exiting = asyncio.create_task(self._exit_with_application())

    async def _exit_with_application(self) -> None:
        while True:
            await asyncio.sleep(_OWNER_CHECK_INTERVAL_S)
            is_supervised = time.monotonic() - self._last_call_at_s < _SUPERVISOR_TIMEOUT_S
            if not is_supervised and await asyncio.to_thread(is_application_gone, self._application):
                break
        logger.info("stream %s stops: its application was deleted", self._name)
        if self._running is not None:
            await self.stop()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _open_collector(spec: StreamSpec, args: AppArgs) -> Collector | None:
    if not (spec.collect and args.collect.folder):
        return None
    # The id of a stream may be the name of an excluded key.
    settings = args.collect.model_copy(update={"excluded_keys": None})
    return Collector(settings, max_pixels=args.limits.max_pixels, pause_s=60 / args.collect.max_per_minute)


def name_prefix(application: str) -> str:
    """Return the prefix that the names of all stream actors of an application share."""
    return f"stream:{application}:"


def actor_names(application: str) -> set[str]:
    """Return the full names of the application's stream actors. This call blocks."""
    actors: list[dict[str, Any]] = ray.util.list_named_actors(all_namespaces=True)
    names = (actor["name"] for actor in actors if actor["namespace"] == NAMESPACE)
    return {name for name in names if name.startswith(name_prefix(application))}

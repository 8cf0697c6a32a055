"""The StreamWorker: a named, detached Ray actor around one ``Stream``, and how actors are found and started."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import cv2
import ray
from ray import serve
from ray._private.worker import global_worker
from ray.actor import ActorHandle
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from serve_app.config import StreamArgs
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.handles import detector_name, serves
from serve_app.deployments.stubs import WorkerStub
from serve_app.network.address_guard import Guard
from serve_app.schemas.streams import Regions, StreamSpec, StreamStatus
from serve_app.streams.capture.source import Source
from serve_app.streams.store import Record, StreamStore
from serve_app.streams.stream import Stream
from serve_app.types import EventPage, Snapshot

logger = logging.getLogger(__name__)

NAMESPACE = "sightline"
_SLOTS = 1  # for the one frame in flight
_UNWATCHED_S = 30.0  # without a call of the supervisor's, who calls far more often
_LAST_FRAME_S = 5.0  # the Detector may be gone for good
_CLOSE_S = 12.0  # recordings and sinks are given 5 s each
_KILL_TIMEOUT_S = 5.0
_KILL_PAUSE_S = 0.02
_GCS_TIMEOUT_S = 5.0
_OWNER_CHECK_PERIOD_S = 10.0  # it asks much of the controller


@serves(WorkerStub)
class StreamWorker:
    """Runs one stream, for whichever supervisor calls ``run``: it goes on when that one dies, and the next one joins.

    A worker that nobody calls any more ends itself once its application is gone; a rolling update is not that.
    """

    def __init__(self, spec: StreamSpec, source: Source, application: str, args: StreamArgs, guard: Guard) -> None:
        cv2.setNumThreads(1)
        self._application = application
        self._watched_s = time.monotonic()
        self._name = spec.id
        self._detector = DetectorClient(
            # Not asked whether it exists: a worker that starts while the controller does must not die of it.
            serve.get_deployment_handle(detector_name(spec.detect.model), app_name=application, _check_exists=False),
            slots=_SLOTS,
            traffic="stream",
            tenant=spec.id,
            # The handle is used from the actor's loop; configs/serve.env would have it on the loop that made it.
            _run_router_in_separate_loop=True,
        )
        self._arguments = spec, source, args, guard
        self._stream: Stream
        self._running: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"StreamWorker({self._name})"  # what the Ray dashboard and the logs show

    async def ready(self) -> None:
        """When it has all that takes long to get: the process, and a Detector that answers."""
        self._watch()
        await self._detector.connect()

    async def node(self) -> str:
        """The id of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    async def run(self) -> StreamStatus:
        """Runs the stream, or joins its run; its status when it is over. Before that, there is no stream to ask about.

        It goes on where its bookmark lies then: whoever ran it before has stopped.
        """
        self._watch()
        if self._running is None:
            spec, source, args, guard = self._arguments
            bookmark = StreamStore(args.state_folder(self._application)).bookmark(spec.id)
            self._stream = Stream(spec, source, self._detector, bookmark, args, guard, 50_000_000)
            self._running = asyncio.create_task(self._stream.run())
        await asyncio.shield(self._running)
        return self._stream.status()

    async def status(self) -> StreamStatus:
        """Now."""
        self._watched_s = time.monotonic()
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
        """The stream ends here; its status then."""
        self._stream.stop()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=_LAST_FRAME_S)
            self._stream.abort()
            await asyncio.wait([self._running], timeout=_CLOSE_S)
            self._running.cancel()  # it still waited for its first Detector
            await asyncio.wait([self._running])
        return self._stream.status()

    def _watch(self) -> None:
        self._watched_s = time.monotonic()
        if self._watching is None:
            self._watching = asyncio.create_task(self._end_with_application())

    async def _end_with_application(self) -> None:
        while True:
            await asyncio.sleep(_OWNER_CHECK_PERIOD_S)
            is_watched = time.monotonic() - self._watched_s < _UNWATCHED_S
            if not is_watched and await asyncio.to_thread(is_gone, self._application):
                break
        logger.info("stream %s ends: its application is gone", self._name)
        if self._running is not None:
            await self.stop()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def actor_name(application: str, record: Record) -> str:
    """Of the stream's actor."""
    return f"{_prefix(application)}{record.spec.id}:{record.moves}"


def start(record: Record, source: Source, application: str, args: StreamArgs, guard: Guard) -> ActorHandle:
    """The stream's actor: the one that there is already, or a new one on the node that has fewest and stays."""
    return (
        ray.remote(StreamWorker)
        .options(
            name=actor_name(application, record),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=0,  # the supervisor sees to that, so that it knows
            num_cpus=0.02,
            scheduling_strategy="SPREAD",
            enable_task_events=False,  # each call would be kept by Ray's GCS: 8 MiB a minute with eleven streams
            # Ray's node agent keeps a dead process's counters and histograms for ever, and streams come and go: the
            # supervisor tells what is measured.
            runtime_env={"env_vars": {"RAY_enable_metrics_collection": "0"}},
        )
        .remote(record.spec, source, application, args, guard)
    )


def running(application: str) -> set[str]:
    """The names of the actors that the application's streams have."""
    actors: list[dict[str, Any]] = ray.util.list_named_actors(all_namespaces=True)
    names = (actor["name"] for actor in actors if actor["namespace"] == NAMESPACE)
    return {name for name in names if name.startswith(_prefix(application))}


def kill(name: str) -> None:
    """End the actor, if there is one, and wait until its name is free. Blocks."""
    expires_s = time.monotonic() + _KILL_TIMEOUT_S
    while time.monotonic() < expires_s:
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
        except ValueError:
            return
        time.sleep(_KILL_PAUSE_S)


def draining_nodes() -> set[str]:
    """The ids of the nodes that are about to be taken away, and get no new actors; none while nobody can tell. Blocks.

    ``ray drain-node`` says so of a node, as do autoscalers before they end one.
    """
    try:
        return set(global_worker.gcs_client.get_draining_nodes(timeout=_GCS_TIMEOUT_S))
    except Exception:  # the head is away, or starts again
        return set()


def is_gone(application: str) -> bool:
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


def _prefix(application: str) -> str:
    return f"stream:{application}:"

"""The DriftMonitor: the deployment that compares what is seen now with a reference. See ``drift.monitor``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ray import serve

from serve_app.collection.selection import Selection
from serve_app.config import AppArgs
from serve_app.deployments.handles import Replicas, listen, serves
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import SUPERVISOR_MAX_CALLS, DriftMonitorStub
from serve_app.drift.monitor import Monitor
from serve_app.drift.notices import Notice
from serve_app.drift.reporter import Reporter
from serve_app.drift.service import DriftService
from serve_app.drift.store import DriftStore
from serve_app.drift.tally import STREAM, MinuteCounts, Report, Tally, tenants_of
from serve_app.drift.webhook import open_webhook
from serve_app.schemas.drift import DriftHistograms, NewReference, ReferenceFile, SourceDrift
from serve_app.telemetry.cloudwatch.documents import Counts
from serve_app.telemetry.cloudwatch.outlets import Delivery, open_outlet
from serve_app.telemetry.cloudwatch.publisher import Publisher
from serve_app.telemetry.metrics import CLOUDWATCH_DOCUMENTS, DRIFT_LOST, DRIFT_PSI, Telemetry
from serve_app.types import Traffic

logger = logging.getLogger(__name__)

DRIFT_MONITOR = "DriftMonitor"
_DRIFTING_INTERVAL_S, _DRIFTING_TIMEOUT_S = 30.0, 10.0
_FORGET_INTERVAL_S, _FORGET_TIMEOUT_S = 5.0, 20.0
_RECENT_S = 86_400  # the figures of a source that has sent nothing for longer are no metric


@serves(DriftMonitorStub)
class DriftMonitor:
    """The only replica of its deployment. Other processes report to it what they have seen."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        log_as_serve()
        folder = args.streams.state_folder(serve.get_replica_context().app_name)
        store = await asyncio.to_thread(DriftStore, folder)
        self._telemetry = Telemetry(RayInstrument)
        cloudwatch = args.telemetry.cloudwatch
        self._publisher = Publisher(Delivery(open_outlet(cloudwatch))) if cloudwatch else None
        self._psi: dict[tuple[str, str], dict[str, float]] = {}  # by model and source, and by feature
        self._service = DriftService(
            Monitor(store, args.drift),
            store.acquire,
            store.close,
            window_images=args.drift.window_images,
            webhook=open_webhook(args.drift, args.outbound.guard()),
            record=self._record,
            on_minutes=self._publish,
        )
        self._server = await listen(self, DriftMonitorStub, max_calls=SUPERVISOR_MAX_CALLS, limit="supervisor_calls")

    async def report(self, report: Report) -> list[Notice]:
        return await self._service.report(report)

    async def sources(self) -> list[SourceDrift]:
        return await self._service.sources()

    async def histograms(self, model: str, source: str) -> DriftHistograms:
        return await self._service.histograms(model, source)

    async def reference(self, model: str, source: str) -> ReferenceFile:
        return await self._service.reference(model, source)

    async def set_reference(self, new: NewReference) -> SourceDrift:
        return await self._service.set_reference(new)

    async def forget(self, source: str) -> None:
        await self._service.forget(source)

    async def drifting(self) -> frozenset[str]:
        return await self._service.drifting()

    async def check_health(self) -> None:
        """If the background task has failed, raise its error, so that Serve restarts the replica."""
        self._service.check()

    def _record(self, sources: list[SourceDrift], lost: int) -> None:
        self._telemetry.record_totals(DRIFT_LOST, {"tally_full": lost}, "reason")
        if self._publisher is not None:
            self._telemetry.record_totals(CLOUDWATCH_DOCUMENTS, self._publisher.outcomes, "outcome")
        self._psi = {}
        for one in sources:
            psi = {name: feature.psi for name, feature in one.features.items() if feature.psi is not None}
            self._psi[one.model, one.source] = {f"psi_{name}": value for name, value in psi.items()}
            if one.seen_at_s is None or time.time() - one.seen_at_s < _RECENT_S:
                for name, value in psi.items():
                    self._telemetry.record(DRIFT_PSI, value, model=one.model, source=one.source, feature=name)

    def _publish(self, minutes: list[MinuteCounts]) -> None:
        if self._publisher is not None:
            self._publisher.publish(
                Counts(
                    model=one.model,
                    source=one.source,
                    began_at_s=one.minute * 60,
                    images=one.images,
                    detections=one.detections,
                    figures=self._psi.get((one.model, one.source), {}),
                )
                for one in minutes
            )

    async def __del__(self) -> None:
        try:
            await self._server.close()
        finally:
            await self._service.close()
            if self._publisher is not None:
                await asyncio.to_thread(self._publisher.close)


async def watch_drifting(monitor: Replicas, selection: Selection, traffic: Traffic) -> None:
    """Keep the drifting sources of a collector's selection up to date, until this is cancelled."""
    while True:
        try:
            drifting = await asyncio.wait_for(monitor.call(DriftMonitorStub.drifting), _DRIFTING_TIMEOUT_S)
            selection.drifting = tenants_of(traffic, drifting)
        except Exception as exc:  # the DriftMonitor restarts; the sources of the last answer still count
            logger.debug("the drifting sources are asked for again: %s", str(exc) or type(exc).__name__)
        await asyncio.sleep(_DRIFTING_INTERVAL_S)


async def forget_stream(monitor: Replicas, stream_id: str) -> None:
    """Make the DriftMonitor forget a stream that was deleted. Retry until it answers."""
    while True:
        try:
            await asyncio.wait_for(monitor.call(DriftMonitorStub.forget, STREAM + stream_id), _FORGET_TIMEOUT_S)
            return
        except Exception as exc:  # the DriftMonitor restarts
            logger.debug("stream %s is forgotten later: %s", stream_id, str(exc) or type(exc).__name__)
        await asyncio.sleep(_FORGET_INTERVAL_S)


def reporter_to(monitor: Replicas, args: AppArgs, *, on_notice: Callable[[Notice], None] = lambda _: None) -> Reporter:
    """Return a process's reporter to the DriftMonitor."""

    async def send(report: Report) -> list[Notice]:
        return await monitor.call(DriftMonitorStub.report, report)

    tally = Tally(measures=args.drift.enabled, stream_interval_s=args.drift.stream_interval_s)
    return Reporter(tally, send, on_notice=on_notice)

"""The DriftMonitor: the deployment that compares what is seen now with a reference. See ``drift.monitor``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

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
from serve_app.drift.tally import Report, Tally
from serve_app.drift.webhook import open_webhook
from serve_app.schemas.drift import DriftHistograms, NewReference, ReferenceFile, SourceDrift
from serve_app.telemetry.metrics import DRIFT_LOST, DRIFT_PSI, Telemetry

DRIFT_MONITOR = "DriftMonitor"
_RECENT_S = 86_400  # the figures of a source that has sent nothing for longer are no metric


@serves(DriftMonitorStub)
class DriftMonitor:
    """The only replica of its deployment. Other processes report to it what they have seen."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        log_as_serve()
        folder = args.streams.state_folder(serve.get_replica_context().app_name)
        store = await asyncio.to_thread(DriftStore, folder)
        self._telemetry = Telemetry(RayInstrument)
        self._service = DriftService(
            Monitor(store, args.drift),
            store.acquire,
            store.close,
            window_images=args.drift.window_images,
            webhook=open_webhook(args.drift, args.outbound.guard()),
            record=self._record,
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

    async def check_health(self) -> None:
        """If the background task has failed, raise its error, so that Serve restarts the replica."""
        self._service.check()

    def _record(self, sources: list[SourceDrift], lost: int) -> None:
        self._telemetry.record_totals(DRIFT_LOST, {"tally_full": lost}, "reason")
        for one in sources:
            if one.seen_at_s is None or time.time() - one.seen_at_s < _RECENT_S:
                for name, feature in one.features.items():
                    if feature.psi is not None:
                        self._telemetry.record(DRIFT_PSI, feature.psi, model=one.model, source=one.source, feature=name)

    async def __del__(self) -> None:
        try:
            await self._server.close()
        finally:
            await self._service.close()


def reporter_to(
    monitor: DeploymentHandle, args: AppArgs, *, on_notice: Callable[[Notice], None] = lambda _: None, **init: Any
) -> Reporter:
    """Return a process's reporter to the DriftMonitor. ``init`` has options of ``handles.Replicas``."""
    replicas = Replicas(monitor, **init)

    async def send(report: Report) -> list[Notice]:
        return await replicas.call(DriftMonitorStub.report, report)

    return Reporter(Tally(measures=args.drift.enabled), send, on_notice=on_notice)

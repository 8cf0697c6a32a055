"""The client with which the HTTP API calls the DriftMonitor."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.stubs import DriftMonitorStub
from serve_app.deployments.supervisor_calls import SupervisorCalls
from serve_app.schemas.drift import DriftHistograms, NewReference, ReferenceFile, SourceDrift

_TIMEOUT_S = 30.0


class DriftProxy:
    """A client of the DriftMonitor. See ``api.backend.Drift``. All its calls may be made twice."""

    def __init__(self, monitor: DeploymentHandle) -> None:
        self._calls = SupervisorCalls(monitor, "drift monitor")

    async def sources(self) -> list[SourceDrift]:
        return await self._calls.repeat(_TIMEOUT_S, DriftMonitorStub.sources)

    async def histograms(self, model: str, source: str) -> DriftHistograms:
        return await self._calls.repeat(_TIMEOUT_S, DriftMonitorStub.histograms, model, source)

    async def reference(self, model: str, source: str) -> ReferenceFile:
        return await self._calls.repeat(_TIMEOUT_S, DriftMonitorStub.reference, model, source)

    async def set_reference(self, new: NewReference) -> SourceDrift:
        return await self._calls.repeat(_TIMEOUT_S, DriftMonitorStub.set_reference, new)

"""The Ingress: the deployment that answers HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.api.access.local import require_keys
from serve_app.api.app import build_api
from serve_app.api.backend import VideoRequest
from serve_app.config import AppArgs
from serve_app.deployments.drift_proxy import DriftProxy
from serve_app.deployments.handles import Replicas, detector_name, listen
from serve_app.deployments.jobs_proxy import JobsProxy
from serve_app.deployments.ray_internals import dashboard_url, http_host, running_replicas
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_figures import ReplicaFigures
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import IngressStub, PreprocessorStub
from serve_app.deployments.supervisor_proxy import SupervisorProxy
from serve_app.deployments.tensors import Tensors
from serve_app.errors import Overloaded, ReplicaGone, ServeAppError, Unavailable
from serve_app.overload.retries import Retries
from serve_app.overload.throttle import Throttle
from serve_app.schemas.models import ModelStatus
from serve_app.schemas.streams import SourceSpec
from serve_app.telemetry.figures import Figures
from serve_app.telemetry.metrics import STAGE_MS, Telemetry
from serve_app.telemetry.overview import ServiceFigures
from serve_app.types import DEFAULT_MODEL, Answer, DetectorState, ModelInfo, PictureRequest

_READY_TIMEOUT_S = 5.0
_SOURCE_FRAME_TIMEOUT_S = 30.0  # longer than the time limit for the source, because a process starts first


@serve.ingress()
class Ingress:
    """The FastAPI application in front of the other deployments. Its process loads neither PyTorch nor a model."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        preprocessor: DeploymentHandle,
        supervisor: DeploymentHandle,
        job_supervisor: DeploymentHandle,
        drift_monitor: DeploymentHandle,
        detectors: dict[str, DeploymentHandle],
        args: AppArgs,
        inlet: DeploymentHandle | None = None,
    ) -> None:
        """Prepare the calls of the other deployments. ``detectors`` maps each model's name to its Detectors.

        The Ingress does not call ``inlet``, but Serve starts only deployments that the Ingress is given.
        """
        log_as_serve()
        require_keys(args.access, await http_host())
        self._dashboard_url = await asyncio.to_thread(dashboard_url)
        self._preprocessor = Replicas(preprocessor)
        self._retries = Retries(in_flight=args.preprocessor.max_calls)
        # One throttle for each tenant and model. Each client in the API-key file is a tenant.
        self._throttles: defaultdict[tuple[str, str], Throttle] = defaultdict(Throttle)
        self._streams = SupervisorProxy(supervisor)
        self._jobs = JobsProxy(job_supervisor)
        self._drift = DriftProxy(drift_monitor)
        self._tensors = Tensors(detectors, args.preprocessor.decode_threads)
        self._args = args
        self._state: DetectorState | None = None
        self._telemetry = Telemetry(RayInstrument)
        self._replica_figures = ReplicaFigures(args)
        max_calls = args.limits.max_requests
        self._server = await listen(self, IngressStub, max_calls=max_calls, limit="limits.max_requests")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self, self._streams, self._jobs, self._drift, self._telemetry, self._args)

    async def ready(self) -> DetectorState:
        """Return the Detector's state if it is ready: see ``Backend.ready``."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                self._state = await self._preprocessor.call(PreprocessorStub.state, DEFAULT_MODEL)
        except Overloaded:
            if self._state is None:
                raise  # an overloaded Detector is ready only if it has answered before
        except TimeoutError as exc:
            raise Unavailable("no detector answers; retry later") from exc
        assert self._state is not None
        return self._state

    async def models(self) -> list[ModelStatus]:
        """Return the status of every model: see ``Backend.models``."""
        running = await asyncio.to_thread(running_replicas, serve.get_replica_context().app_name)
        return await asyncio.gather(*(self._model_status(name, running) for name in self._args.detectors()))

    async def _model_status(self, name: str, running: dict[str, int]) -> ModelStatus:
        if not running.get(detector_name(name)):
            return ModelStatus(name=name, state="asleep")  # calling the model's Detector would start a replica
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                return ModelStatus.of(name, await self._preprocessor.call(PreprocessorStub.state, name))
        except (ServeAppError, TimeoutError):
            return ModelStatus(name=name, state="unavailable")

    async def detect(self, request: PictureRequest) -> Answer:
        """Return the detections in an image: see ``Backend.detect``."""
        is_suspect = False

        async def attempt(left_s: float) -> Answer:
            nonlocal is_suspect
            attempted = replace(request, time_left_s=left_s, is_suspect=is_suspect)
            try:
                return await self._preprocessor.call(PreprocessorStub.detect, attempted)
            except ReplicaGone:  # this image may have made the replica die
                is_suspect = True
                raise

        started_at_s = time.monotonic()
        with self._throttled(request.tenant, request.params.model):
            answer = await self._retries.run(attempt, request.time_left_s)
        self._telemetry.record(STAGE_MS, (time.monotonic() - started_at_s) * 1e3, stage="total")
        return answer

    async def describe(self, model: str) -> ModelInfo:
        """Return the model that is served now: see ``Backend.describe``."""
        return await self._tensors.describe(model)

    async def infer(
        self, model: str, planes: NDArray[np.floating], *, tenant: str, time_left_s: float
    ) -> tuple[NDArray[np.float32], str]:
        """Return the tensor for one model input, and the version of the weights: see ``Backend.infer``."""
        with self._throttled(tenant, model):
            return await self._tensors.infer(model, planes, tenant=tenant, time_left_s=time_left_s)

    async def detect_video(self, request: VideoRequest) -> list[Answer]:
        """Return the answers for the frames of a video: see ``Backend.detect_video``."""

        async def attempt(left_s: float) -> list[Answer]:
            attempted = replace(request, time_left_s=left_s)
            return await self._preprocessor.call(PreprocessorStub.detect_video, attempted)

        return await self._retries.run(attempt, request.time_left_s)

    def dashboard_url(self) -> str | None:
        """Return the address of Ray's dashboard: see ``Backend.dashboard_url``."""
        return self._dashboard_url

    async def source_frame(self, source: SourceSpec) -> bytes:
        """Return a frame of a source: see ``Backend.source_frame``."""
        try:
            async with asyncio.timeout(_SOURCE_FRAME_TIMEOUT_S):
                return await self._preprocessor.call(PreprocessorStub.source_frame, source)
        except TimeoutError as exc:
            raise Unavailable("no process could read the source in time; retry later") from exc

    async def figures(self) -> ServiceFigures:
        """Return the figures of all replicas: see ``Backend.figures``."""
        return await self._replica_figures.collect()

    async def own_figures(self) -> Figures:
        """Return what this replica has counted: see ``IngressStub.own_figures``."""
        return self._telemetry.figures()

    def admit(self, tenant: str, model: str) -> None:
        """Refuse a request if the service is overloaded: see ``Backend.admit``."""
        self._throttles[tenant, model].admit()

    @contextmanager
    def _throttled(self, tenant: str, model: str) -> Iterator[None]:
        """Tell the throttle how a call ended, so that ``admit`` refuses requests while the service is overloaded."""
        refusal: Overloaded | None = None
        try:
            yield
        except Overloaded as exc:
            refusal = exc
            raise
        finally:
            self._throttles[tenant, model].observe(refusal)

    async def __del__(self) -> None:
        try:
            await self._server.close()
        finally:
            self._tensors.close()

"""The figures of all replicas, which an Ingress collects when a client asks for the overview."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.config import AppArgs
from serve_app.deployments.handles import detector_name, service_name
from serve_app.deployments.ray_internals import running_replicas
from serve_app.errors import ServeAppError, Unavailable
from serve_app.ipc.rpc import LocalReplicas
from serve_app.schemas.models import ModelStatus
from serve_app.telemetry.figures import Figures, combined
from serve_app.telemetry.overview import ModelFigures, ServiceFigures
from serve_app.types import DetectorState

_INTERVAL_S = 1.0  # however many clients ask, the replicas are asked once in this time
_REPLICAS_INTERVAL_S = 5.0  # longer, because the question is expensive for Serve's controller
_LOCAL_TIMEOUT_S, _TIMEOUT_S = 1.0, 2.0


class ReplicaFigures:
    """Asks all replicas, and keeps the answer for a second. Nothing runs while no client asks.

    The replicas of this node answer over their Unix sockets. Serve's handles are used if there are more replicas,
    because a broadcast to all replicas takes many times more CPU time.
    """

    def __init__(self, args: AppArgs) -> None:
        self._models = tuple(args.detectors())
        self._application = serve.get_replica_context().app_name
        self._local: dict[str, LocalReplicas] = {}  # by deployment, as are the handles
        self._handles: dict[str, DeploymentHandle] = {}
        self._collected: ServiceFigures | None = None
        self._collected_at_s = 0.0
        self._replicas: dict[str, int] | None = None
        self._replicas_at_s = 0.0
        self._lock = asyncio.Lock()

    async def collect(self) -> ServiceFigures:
        """Return the figures of the replicas that answer within 3 s."""
        async with self._lock:
            if self._collected is None or time.monotonic() - self._collected_at_s > _INTERVAL_S:
                self._collected = await self._collect()
                self._collected_at_s = time.monotonic()
        return self._collected

    async def _collect(self) -> ServiceFigures:
        await self._count_replicas()
        ingresses, preprocessors, *models = await asyncio.gather(
            self._ask("Ingress", "own_figures"),
            self._ask("Preprocessor", "figures"),
            *(self._model(name) for name in self._models),
        )
        return ServiceFigures(models, combined(_only_figures(ingresses + preprocessors)), self._replicas)

    async def _count_replicas(self) -> None:
        if time.monotonic() - self._replicas_at_s < _REPLICAS_INTERVAL_S and self._replicas is not None:
            return
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                self._replicas = await asyncio.to_thread(running_replicas, self._application)
        except (Unavailable, TimeoutError):
            self._replicas = None
        self._replicas_at_s = time.monotonic()

    async def _model(self, name: str) -> ModelFigures:
        deployment = detector_name(name)
        if self._replicas is not None and not self._replicas.get(deployment):
            return ModelFigures(ModelStatus(name=name, state="asleep"), 0, Figures())
        answers = [answer for answer in await self._ask(deployment, "figures") if isinstance(answer, tuple)]
        if not answers:
            return ModelFigures(ModelStatus(name=name, state="unavailable"), 0, Figures())
        states: list[DetectorState] = [state for state, _ in answers]
        # A change that one replica makes or has refused is shown, even if the others have not begun it.
        state = max(states, key=lambda one: (bool(one.refused_change), one.is_changing))
        return ModelFigures(ModelStatus.of(name, state), len(answers), combined(figures for _, figures in answers))

    async def _ask(self, deployment: str, method: str) -> list[Any]:
        """Call a method of each replica, and return the answers. Neither way wakes a model that is asleep."""
        if deployment not in self._local:
            self._local[deployment] = LocalReplicas(service_name(self._application, deployment))
        answers = await self._local[deployment].call_all(method, _LOCAL_TIMEOUT_S)
        if self._replicas is not None and len(answers) >= self._replicas.get(deployment, 0):
            return answers
        return await self._broadcast(deployment, method)  # some replicas are on other nodes

    async def _broadcast(self, deployment: str, method: str) -> list[Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if deployment not in self._handles:
                    # Without the check whether the deployment exists, because that call would block the event loop.
                    self._handles[deployment] = serve.get_deployment_handle(
                        deployment, app_name=self._application, _check_exists=False
                    )
                response = self._handles[deployment].broadcast(method)
                answers: list[Any] = await response.results_async(timeout_s=_TIMEOUT_S, return_exceptions=True)
                return answers
        except (DeploymentUnavailableError, RayError, TimeoutError, ServeAppError):
            return []


def _only_figures(answers: list[Any]) -> list[Figures]:
    return [answer for answer in answers if isinstance(answer, Figures)]

"""The JobSupervisor: the deployment that brings every job to its end. See ``jobs.supervision``."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ParamSpec, TypeVar

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.config import AppArgs
from serve_app.deployments.handles import StubMethod, listen, raise_refusal, serves
from serve_app.deployments.ray_internals import max_replica_count
from serve_app.deployments.ray_metrics import RayInstrument
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import (
    JOB_RUNNER_UNITS,
    SUPERVISOR_MAX_CALLS,
    JobRunnerStub,
    JobSupervisorStub,
)
from serve_app.errors import Overloaded, ReplicaDied, ServeAppError, Unavailable
from serve_app.jobs.celery_intake import Intake
from serve_app.jobs.celery_tasks import FinishedTask, TaskKind
from serve_app.jobs.store import JobStore
from serve_app.jobs.supervision import Supervision
from serve_app.jobs.units import Unit, UnitResult
from serve_app.schemas.jobs import FileInfo, Format, JobItems, JobList, JobSpec, JobState, JobStatus, Retry
from serve_app.telemetry.metrics import Telemetry
from serve_app.types import EventPage, Principal

_MAX_UNITS_INTERVAL_S = 10.0  # a new config may have another number of runners

P = ParamSpec("P")
T = TypeVar("T")


@serves(JobSupervisorStub)
class JobSupervisor:
    """The only replica of its deployment. It lets the Ingress call ``Supervision``."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, runner: DeploymentHandle, args: AppArgs
    ) -> None:
        log_as_serve()
        application = serve.get_replica_context().app_name
        folder = args.streams.state_folder(application)
        store = await asyncio.to_thread(JobStore, folder)
        self._supervision = Supervision(
            store,
            ServeRunners(application, runner),
            args,
            folder / "jobs",
            Telemetry(RayInstrument),
        )
        self._intake = Intake(self._supervision, store, args.jobs.celery.owner)
        self._server = await listen(self, JobSupervisorStub, max_calls=SUPERVISOR_MAX_CALLS, limit="supervisor_calls")

    async def create(self, spec: JobSpec, who: Principal) -> JobStatus:
        return await self._supervision.create(spec, who)

    async def put(self, spec: JobSpec, who: Principal) -> tuple[JobStatus, bool]:
        return await self._supervision.put(spec, who)

    async def all(
        self, who: Principal, *, state: JobState | None, tag: str | None, after: str | None, limit: int
    ) -> JobList:
        return await self._supervision.all(who, state=state, tag=tag, after=after, limit=limit)

    async def status(self, job_id: str, who: Principal) -> JobStatus:
        return await self._supervision.status(job_id, who)

    async def items(self, job_id: str, who: Principal, *, state: str | None, after: int | None, limit: int) -> JobItems:
        return await self._supervision.items(job_id, who, state=state, after=after, limit=limit)

    async def cancel(self, job_id: str, who: Principal) -> JobStatus:
        return await self._supervision.cancel(job_id, who)

    async def pause(self, job_id: str, who: Principal) -> JobStatus:
        return await self._supervision.pause(job_id, who)

    async def resume(self, job_id: str, who: Principal) -> JobStatus:
        return await self._supervision.resume(job_id, who)

    async def retry(self, job_id: str, who: Principal, retry: Retry) -> JobStatus:
        return await self._supervision.retry(job_id, who, retry)

    async def delete(self, job_id: str, who: Principal) -> None:
        await self._supervision.delete(job_id, who)

    async def set_owner(self, job_id: str, who: Principal, owner: str) -> JobStatus:
        return await self._supervision.set_owner(job_id, who, owner)

    async def results(self, job_id: str, who: Principal, kind: Format) -> FileInfo:
        return await self._supervision.results(job_id, who, kind)

    async def read_results(self, job_id: str, who: Principal, kind: Format, offset: int, size: int) -> bytes:
        return await self._supervision.read_results(job_id, who, kind, offset, size)

    async def put_file(self, job_id: str, who: Principal, name: str, offset: int, data: bytes, *, last: bool) -> None:
        await self._supervision.put_file(job_id, who, name, offset, data, last=last)

    async def start(self, job_id: str, who: Principal) -> JobStatus:
        return await self._supervision.start(job_id, who)

    async def picture(self, job_id: str, who: Principal, item: int, *, boxes: bool) -> bytes:
        return await self._supervision.picture(job_id, who, item, boxes=boxes)

    async def events(self, job_id: str, who: Principal, after: int | None, within_s: float) -> EventPage:
        return await self._supervision.events(job_id, who, after, within_s)

    async def take_task(self, task_id: str, kind: TaskKind, arguments: dict[str, Any]) -> None:
        await self._intake.take(task_id, kind, arguments)

    async def cancel_task(self, job_id: str) -> str:
        return (await self._intake.cancel(job_id)).model_dump_json()

    async def finished_tasks(self, within_s: float) -> list[FinishedTask]:
        return await self._intake.finished(within_s)

    async def forget_tasks(self, task_ids: list[str]) -> None:
        await self._intake.forget(task_ids)

    async def check_health(self) -> None:
        """If a background task has failed, raise its error, so that Serve restarts the replica."""
        self._supervision.check()

    async def __del__(self) -> None:
        try:
            await self._supervision.stop()
            await self._server.close()
        finally:
            await self._supervision.close()


class ServeRunners:
    """The JobRunner deployment of an application. See ``jobs.dispatch.Runners``.

    All calls go through Serve's handle, never over a Unix socket. Serve therefore counts them, starts runners when
    units wait, and stops a runner only when its units are done.
    """

    def __init__(self, application: str, runner: DeploymentHandle) -> None:
        self._application = application
        self._runner = runner
        self._max_units = 0
        self._read_at_s = float("-inf")

    async def max_units(self) -> int:
        """Return how many units the runners can work on at once. The number is read again every ten seconds."""
        if time.monotonic() - self._read_at_s > _MAX_UNITS_INTERVAL_S:
            try:
                count = await asyncio.to_thread(max_replica_count, self._application, self._runner.deployment_name)
                self._max_units = count * JOB_RUNNER_UNITS
            except Exception:  # Serve's controller is restarting; the last number is good enough
                self._max_units = self._max_units or JOB_RUNNER_UNITS
            self._read_at_s = time.monotonic()
        return self._max_units

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        return await self._call(JobRunnerStub.run, unit, spec, model_version)

    async def picture(self, unit: Unit, spec: JobSpec, item: int, result: str | None) -> bytes:
        return await self._call(JobRunnerStub.picture, unit, spec, item, result)

    async def _call(self, method: StubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        response = getattr(self._runner, method.__name__).remote(*args, **kwargs)
        try:
            result: T | ServeAppError = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayActorError as exc:
            raise ReplicaDied("the runner died during the unit") from exc
        except BackPressureError as exc:
            raise Overloaded("the runners are busy; retry later", limit="max_queued_requests") from exc
        except DeploymentUnavailableError as exc:
            raise Unavailable("no runner can be started; the server's log has the reason") from exc
        return raise_refusal(result)

"""The JobInlet: the deployment that takes tasks from a Celery queue and returns their results to Celery's backend.

A task is stored as a job, and then acknowledged. A message is therefore unacknowledged only for milliseconds, so
neither the queue's visibility timeout nor a restart of this deployment can lose or repeat work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from celery import current_task
from celery.exceptions import Ignore
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
from ray.serve.task_consumer import task_consumer, task_handler

from serve_app.config import CeleryArgs
from serve_app.deployments.handles import Replicas
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import JobSupervisorStub
from serve_app.errors import ServeAppError
from serve_app.jobs.celery_tasks import CANCEL, DETECT, JOB, FinishedTask, TaskKind, when_there_is_room

logger = logging.getLogger(__name__)

_RETRY_PAUSE_S = 1.0
_RESULTS_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0  # short, because a message that is not acknowledged returns to the queue
_CONCURRENCY = 4  # tasks that are being stored at the same time
# kombu looks for messages whose consumer has died at every 10th interval, unless the throttle is 1.
_REDIS_OPTIONS = {"visibility_timeout": 60, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}

T = TypeVar("T")


class TaskFailed(Exception):
    """The error that a task's sender gets. Its text begins with the error's code."""


class JobInlet:
    """The consumer of the queue. Celery calls its handlers in threads."""

    def __init__(self, supervisor: DeploymentHandle) -> None:
        log_as_serve()
        # A handle works on one event loop, and Celery's threads have none.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="inlet", daemon=True).start()
        self._supervisor = Replicas(supervisor, _run_router_in_separate_loop=True)
        self._adapter: Any  # Ray's task_consumer sets it after __init__
        threading.Thread(target=self._return_results, name="results", daemon=True).start()

    @task_handler(name=DETECT)  # type: ignore[untyped-decorator]
    def detect(self, **arguments: Any) -> None:
        """Store a task for one image."""
        self._take(DETECT, arguments)

    @task_handler(name=JOB)  # type: ignore[untyped-decorator]
    def job(self, **arguments: Any) -> None:
        """Store a task for a whole job."""
        self._take(JOB, arguments)

    @task_handler(name=CANCEL)  # type: ignore[untyped-decorator]
    def cancel(self, job_id: str) -> Any:
        """Cancel the job of a task, and return its status."""
        return json.loads(self._until_stored(lambda: self._supervisor.call(JobSupervisorStub.cancel_task, job_id)))

    def _take(self, kind: TaskKind, arguments: dict[str, Any]) -> None:
        task_id = str(current_task.request.id)
        self._until_stored(lambda: self._supervisor.call(JobSupervisorStub.take_task, task_id, kind, arguments))
        raise Ignore  # the result follows when the job has ended

    def _until_stored(self, call: Any) -> Any:
        """Call the supervisor until it has an answer. While it has no room, the other messages wait in the broker.

        Raise TaskFailed if the task is refused.
        """
        try:
            return when_there_is_room(lambda: self._run(call()), lambda: time.sleep(_RETRY_PAUSE_S))
        except ServeAppError as exc:
            raise TaskFailed(f"{exc.code}: {exc.detail}") from None

    def _return_results(self) -> None:
        """Send the results of finished tasks to Celery's backend for as long as the replica lives.

        A result may be sent twice, which is harmless: it has the same task id and the same value.
        """
        while not hasattr(self, "_adapter"):
            time.sleep(_RETRY_PAUSE_S)
        backend = self._adapter._app.backend
        while True:
            try:
                finished = self._run(self._supervisor.call(JobSupervisorStub.finished_tasks, _RESULTS_TIMEOUT_S))
                for task in finished:
                    _send(backend, task)
                if finished:
                    ids = [task.task_id for task in finished]
                    self._run(self._supervisor.call(JobSupervisorStub.forget_tasks, ids))
            except Exception as exc:  # the supervisor or the backend restarts
                logger.warning("the results of tasks cannot be returned now: %s", type(exc).__name__)
                time.sleep(_RETRY_PAUSE_S)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _send(backend: Any, task: FinishedTask) -> None:
    if task.succeeded:
        backend.store_result(task.task_id, json.loads(task.result), "SUCCESS")
    else:
        backend.store_result(task.task_id, TaskFailed(task.problem), "FAILURE")


def _transport_options(args: CeleryArgs, broker_url: str) -> dict[str, Any] | None:
    if args.queue_url is not None:
        # With predefined queues, kombu creates no queue, and it uses the option ``visibility_timeout`` only for queues
        # that it creates. The region and the credentials come from AWS's variables.
        queues = {args.queue: {"url": args.queue_url}}
        return {"predefined_queues": queues, "is_secure": args.queue_url.startswith("https:")}
    return _REDIS_OPTIONS if broker_url.startswith("redis") else None


def bind_inlet(args: CeleryArgs, supervisor: Application, options: dict[str, Any]) -> Application:
    """Return the deployment that consumes the queue in ``args``. ``options`` are options of the deployment."""
    assert args.broker_url is not None
    broker_url = args.broker_url.get_secret_value()
    config = TaskProcessorConfig(
        queue_name=args.queue,
        adapter_config=CeleryAdapterConfig(
            broker_url=broker_url,
            backend_url=args.backend_url.get_secret_value() if args.backend_url else "disabled://",
            broker_transport_options=_transport_options(args, broker_url),
            task_custom_config={"autoretry_for": ()},  # the sender gets a refusal at once
            app_custom_config={
                "accept_content": ["json"],  # a pickle could run code
                "result_accept_content": ["json"],
                "task_serializer": "json",
                "result_serializer": "json",
                "worker_prefetch_multiplier": 1,
                "worker_redirect_stdouts": False,
                "worker_hijack_root_logger": False,
                "worker_enable_remote_control": args.queue_url is None,  # SQS would need another queue for it
                "broker_connection_retry_on_startup": True,
            },
        ),
    )
    inlet = task_consumer(task_processor_config=config)(JobInlet)
    deployment = serve.deployment(
        inlet,
        name="JobInlet",
        num_replicas=1,
        max_ongoing_requests=_CONCURRENCY,
        graceful_shutdown_timeout_s=_STOP_TIMEOUT_S,
        **options,
    )
    return deployment.bind(supervisor)

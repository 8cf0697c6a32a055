"""The tasks of a Celery queue, and the jobs that they stand for. This module does not import Celery."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from serve_app.errors import InvalidParameter, NoSpace, Overloaded, Unavailable
from serve_app.schemas.detect import DetectSettings
from serve_app.schemas.jobs import JobSpec
from serve_app.schemas.streams import ID

TaskKind = Literal["sightline.detect.v1", "sightline.job.v1"]
DETECT: Final = "sightline.detect.v1"
JOB: Final = "sightline.job.v1"
CANCEL: Final = "sightline.cancel.v1"

T = TypeVar("T")


@dataclass(frozen=True)
class FinishedTask:
    """A task whose job has ended, and what its sender shall get."""

    task_id: str
    succeeded: bool
    result: str  # JSON: an item's result for ``sightline.detect.v1``, or else the job's status
    problem: str = ""  # the code and the reason if the task did not succeed


def when_there_is_room(call: Callable[[], T], pause: Callable[[], None]) -> T:
    """Call the supervisor until it has room for a task, and return its answer. Meanwhile, call ``pause`` each time.

    The task's message stays unacknowledged until then, so other messages wait in the broker. Raise ServeAppError if the
    task is refused.
    """
    while True:
        try:
            return call()
        except (Overloaded, Unavailable, NoSpace):
            pause()


class _DetectTask(DetectSettings):
    """The arguments of ``sightline.detect.v1``: an image, and the settings of ``POST /detect``."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, max_length=8192)


def job_id_of(task_id: str) -> str:
    """Return the id of a task's job: the task's own id, or a hash of it if it is no valid id of a job."""
    return task_id if re.fullmatch(ID, task_id) else f"task-{hashlib.sha256(task_id.encode()).hexdigest()[:24]}"


def detect_job(task_id: str, arguments: dict[str, Any]) -> JobSpec:
    """Return the job of a task ``sightline.detect.v1``, which has one item.

    Raise InvalidParameter if the arguments are not valid.
    """
    try:
        task = _DetectTask.model_validate(arguments)
    except ValidationError as exc:
        raise _refusal(DETECT, exc) from None
    settings = task.model_dump(exclude_unset=True, exclude={"url"})
    if task.url.startswith(("http://", "https://")):
        source: dict[str, Any] = {"type": "urls", "urls": [task.url]}
    elif "://" in task.url:
        source = {"type": "objects", "uri": task.url}
    else:
        source = {"type": "files", "path": task.url}
    # The result goes to the sender, so the job itself need not be kept for long.
    spec = {"id": job_id_of(task_id), "source": source, "detect": settings, "pin_model": False, "expires_after_s": 3600}
    return JobSpec.model_validate(spec)


def whole_job(task_id: str, arguments: dict[str, Any]) -> JobSpec:
    """Return the job of a task ``sightline.job.v1``, whose argument ``job`` is a job's specification without an id.

    Raise InvalidParameter if the arguments are not valid.
    """
    body = arguments.get("job")
    if not isinstance(body, dict) or set(arguments) != {"job"}:
        raise InvalidParameter(f"{JOB}: it needs exactly one argument, job, with the specification of a job")
    if body.get("id", job_id_of(task_id)) != job_id_of(task_id):
        raise InvalidParameter(f"{JOB}: job.id differs from the task's id; leave it out")
    try:
        spec = JobSpec.model_validate(body | {"id": job_id_of(task_id)})
    except ValidationError as exc:
        raise _refusal(JOB, exc) from None
    if spec.source.type == "upload":
        raise InvalidParameter(f"{JOB}: job.source.type upload is not possible in a task; upload over HTTP")
    return spec


def _refusal(kind: str, exc: ValidationError) -> InvalidParameter:
    problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_input=False))
    return InvalidParameter(f"{kind}: {'; '.join(problems)}")

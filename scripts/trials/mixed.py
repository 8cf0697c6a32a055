"""Let clients, streams and jobs use several models at once, and check that no answer comes from the wrong model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.trials.clients import clients
from scripts.trials.cluster import Cluster, stream, until
from scripts.trials.follower import Follower
from scripts.trials.jobs import link_pictures
from scripts.trials.reference import Reference
from serve_app.client import Client, DetectResult, FrameResult
from serve_app.schemas.jobs import AT_REST, JobFailure, JobResult

SECOND = "second"  # the name of the model that is served besides the default model
_CLIENTS = 2  # the number of clients per model
_STREAM_FPS = 5
_ITEMS = 30_000  # of the job of each model: more than it processes during the trial


@dataclass
class Mixed:
    """The results of the trial. ``answers`` and ``batch_sizes`` are by the name of the model in its answers."""

    answers: Counter[str] = field(default_factory=Counter)  # answers, results of streams, and results of jobs
    batch_sizes: dict[str, float] = field(default_factory=dict)  # the mean in answers and in results of streams
    problems: list[str] = field(default_factory=list)


def mix(
    cluster: Cluster, folder: Path, pictures: Mapping[str, bytes], duration_s: float, tell: Callable[[float], None]
) -> Mixed:
    """Let clients, a stream and a job use each model on its own image, all at once, for ``duration_s`` seconds.

    ``pictures`` has the image for each model of the server. They are saved below ``folder``, from which streams and
    jobs may read. Every answer must agree with the answer of the same model without load.
    """
    trial = Mixed()
    references = {model: Reference(picture) for model, picture in pictures.items()}
    names = {model: reference.ask(cluster.url, model) for model, reference in references.items()}
    sizes: dict[str, list[int]] = {name: [] for name in names.values()}
    crowds, followers = {}, {}
    with ExitStack() as stack:
        for model, reference in references.items():
            still = link_pictures([reference.picture], folder / f"mixed-{model}", _ITEMS)
            fields = {"loop": True, "max_fps": _STREAM_FPS, "detect": {"model": model}}
            stack.enter_context(stream(cluster, f"mixed-{model}", still / "0000", **fields))
            stack.enter_context(_job(cluster, model, still, names[model], reference, trial))
            followers[model] = Follower(cluster.url, f"mixed-{model}")
            followers[model].result_after(0)
            judge = _judge(reference, names[model], sizes[names[model]])
            crowds[model] = stack.enter_context(clients(cluster.url, reference.picture, _CLIENTS, judge, model))
        started_at_s = time.monotonic()
        while (at_s := time.monotonic() - started_at_s) < duration_s:
            tell(at_s)
            time.sleep(1)
    for model, name in names.items():
        trial.problems += crowds[model].problems
        followers[model].close()
        judge = _judge(references[model], name, sizes[name])
        wrong = [one for one in followers[model].results() if not judge(one)]
        trial.problems += [f"the stream of {name} has a wrong result, made by {one.model}" for one in wrong]
        trial.answers += references[model].answers
    trial.batch_sizes = {name: sum(seen) / len(seen) for name, seen in sizes.items()}
    return trial


@contextmanager
def _job(cluster: Cluster, model: str, folder: Path, name: str, reference: Reference, trial: Mixed) -> Iterator[None]:
    """Run a job while the ``with`` block runs, and then check its results and delete it."""
    job_id = f"mixed-{model}"
    with Client(cluster.url) as client:
        client.jobs.create({"id": job_id, "source": {"type": "files", "path": str(folder)}, "detect": {"model": model}})
        try:
            until(lambda: client.jobs.status(job_id).succeeded > 0, what=f"a result of the job {job_id}")
            yield
            if (status := client.jobs.status(job_id)).state in AT_REST:
                trial.problems.append(f"the job of {name} ended early: {status.state} {status.detail or ''}")
            results = Counter(_content(item) for item in client.jobs.items(job_id, state="succeeded"))
        finally:
            client.jobs.delete(job_id)
    for content, count in results.items():  # most results are equal, because all images are
        result = JobResult.model_validate_json(content)
        if result.model == name and reference.agrees(result):
            reference.answers[name] += count - 1
        else:
            trial.problems.append(f"the job of {name} has {count} wrong results, made by {result.model}")


def _content(item: JobResult | JobFailure) -> str:
    """Return a result without what differs between items. A job adds the model's version to its name."""
    assert isinstance(item, JobResult)
    return item.model_copy(update={"item": 0, "name": "", "model": item.model.partition("@")[0]}).model_dump_json()


def _judge(reference: Reference, name: str, batch_sizes: list[int]) -> Callable[[DetectResult | FrameResult], bool]:
    def is_right(result: DetectResult | FrameResult) -> bool:
        batch_sizes.append(result.batch_size)
        return result.model == name and reference.agrees(result)

    return is_right

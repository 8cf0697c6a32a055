"""Serve two models at once to clients and streams, and check that no answer comes from the wrong model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from scripts.trials.clients import Judge, clients
from scripts.trials.cluster import Cluster, stream
from scripts.trials.follower import Follower
from scripts.trials.reference import Reference

SECOND = "second"  # the name of the model that is served besides the default model
_CLIENTS = 2  # the number of clients per model
_STREAM_FPS = 5


@dataclass
class Mixed:
    """The results of the trial."""

    answers: Counter[str] = field(default_factory=Counter)  # the number of answers and of stream results, by model
    problems: list[str] = field(default_factory=list)


def mix(cluster: Cluster, pictures: Path, duration_s: float, tell: Callable[[float], None]) -> Mixed:
    """Let clients and streams use both models on the only image in ``pictures``, for ``duration_s`` seconds."""
    trial = Mixed()
    (picture,) = pictures.iterdir()
    reference = Reference(picture.read_bytes())
    names = {model: reference.ask(cluster.url, model) for model in ("default", SECOND)}
    crowds, followers = {}, {}
    with ExitStack() as stack:
        for model, name in names.items():
            detect = {"model": model}
            stream_id = f"mixed-{model}"
            stack.enter_context(stream(cluster, stream_id, pictures, loop=True, max_fps=_STREAM_FPS, detect=detect))
            followers[model] = Follower(cluster.url, stream_id)
            followers[model].result_after(0)
            judge = _judge(reference, name)
            crowds[model] = stack.enter_context(clients(cluster.url, reference.picture, _CLIENTS, judge, model))
        started_at_s = time.monotonic()
        while (at_s := time.monotonic() - started_at_s) < duration_s:
            tell(at_s)
            time.sleep(1)
    for model, name in names.items():
        trial.problems += crowds[model].problems
        followers[model].close()
        wrong = [one for one in followers[model].results() if one.model != name or not reference.agrees(one)]
        trial.problems += [f"the stream of {name} has a wrong result, made by {one.model}" for one in wrong]
    trial.answers = reference.answers
    return trial


def _judge(reference: Reference, name: str) -> Judge:
    return lambda result: result.model == name and reference.agrees(result)

"""Change the model back and forth while clients and streams use it, and then try an invalid model file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from scripts.trials.clients import Request, clients
from scripts.trials.cluster import Cluster, Footprint, stream, until
from scripts.trials.follower import Follower
from scripts.trials.reference import Reference
from serve_app.cli.deploy import apply_config, check_changed, settled_models
from serve_app.cli.errors import CommandFailed
from serve_app.client import Client
from serve_app.schemas.health import ReadyResponse
from serve_app.types import Json

_CLIENTS = 4
_STREAMS = 4
_STREAM_FPS = 5
_SETTLED = 4  # after this many changes, both models have been loaded twice, and memory must not grow further
_MEMORY_SLACK_MIB = 30.0


@dataclass
class Swaps:
    """The results of the trial."""

    took_s: list[float] = field(default_factory=list)  # the time from the command to the first answer of the new model
    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # the number of answers and of stream results, by model
    memory_mib: list[float] = field(default_factory=list)  # the Detector's memory after each change
    refusal: str = ""  # the message about the invalid model file
    problems: list[str] = field(default_factory=list)


def swap(
    cluster: Cluster, config: Path, weights: Sequence[str], pictures: Path, times: int, tell: Callable[[int], None]
) -> Swaps:
    """Change back and forth between two models. ``times`` is the number of changes.

    Every answer must match the detections that the same model returned without load. The folder ``pictures`` contains
    one image. Clients post this image, and streams show it. Raise EventTimeout if a stream has no result of the new
    model in time.
    """
    trial = Swaps()
    (picture,) = pictures.iterdir()
    reference = Reference(picture.read_bytes())
    names = []
    for one in weights:
        _change(cluster, config, {"model": {"weights": one}})
        names.append(reference.ask(cluster.url))
    if names[0] == names[1]:
        trial.problems.append("the model did not change")
    (detector,) = cluster.replicas("Detector")
    with ExitStack() as stack:
        followers = []
        for name in (f"swapped-{number}" for number in range(_STREAMS)):
            stack.enter_context(stream(cluster, name, pictures, loop=True, max_fps=_STREAM_FPS))
            followers.append(Follower(cluster.url, name))
        for follower in followers:
            follower.result_after(0)
        crowd = stack.enter_context(clients(cluster.url, reference.picture, _CLIENTS, reference.agrees))
        for number in range(times):
            started_at_s = time.monotonic()
            _change(cluster, config, {"model": {"weights": weights[number % 2]}})
            name, changed_at_s = names[number % 2], time.time()
            before = reference.answers[name]
            until(lambda: reference.answers[name] > before, what=f"an answer of {name}")  # noqa: B023
            trial.took_s.append(time.monotonic() - started_at_s)
            for follower in followers:
                follower.result_after(changed_at_s, of_model=name)
            trial.memory_mib.append(Footprint.of(detector).memory_mib)
            tell(number + 1)
        _deploy_invalid_model(cluster, config, crowd.requests, trial)
    for follower in followers:
        follower.close()
        wrong = [one for one in follower.results() if not reference.agrees(one)]
        trial.problems += [f"a stream has a result that {one.model} does not produce" for one in wrong]
    trial.requests, trial.answers = len(crowd.requests), reference.answers
    trial.problems += crowd.problems
    if cluster.replicas("Detector") != [detector]:
        trial.problems.append("the Detector was replaced")
    settled_mib = trial.memory_mib[_SETTLED:]
    if settled_mib and settled_mib[-1] > settled_mib[0] + _MEMORY_SLACK_MIB:
        trial.problems.append(f"the Detector's memory grew from {settled_mib[0]:.0f} to {settled_mib[-1]:.0f} MiB")
    return trial


def _change(cluster: Cluster, config: Path, user_config: Json) -> None:
    """Change the model as `sightline deploy` does. Raise CommandFailed when the server refuses the change."""
    settings = yaml.safe_load(config.read_text())
    (detector,) = (one for one in settings["applications"][0]["deployments"] if one["name"] == "Detector")
    detector["user_config"] = user_config
    apply_config(settings, cluster.dashboard_url)
    with Client(cluster.url) as client:
        check_changed(settled_models(client))


def _deploy_invalid_model(cluster: Cluster, config: Path, requests: Sequence[Request], trial: Swaps) -> None:
    broken = config.with_name("broken.onnx")
    broken.write_bytes(b"no model")
    before = _readyz(cluster)
    try:
        _change(cluster, config, {"model": {"weights": str(broken)}})
    except CommandFailed as exc:
        trial.refusal = str(exc)
    else:
        trial.problems.append("the invalid model file was not refused")
    answered = len(requests)
    until(lambda: len(requests) > answered + 2 * _CLIENTS, what="answers after the refused change")
    after = _readyz(cluster)
    if after.version != before.version or not after.refused_change:
        trial.problems.append(f"/readyz is wrong after the refused change: {after!r}")


def _readyz(cluster: Cluster) -> ReadyResponse:
    with Client(cluster.url) as client:
        return client.ready()

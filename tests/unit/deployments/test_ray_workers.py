"""Tests of the adapter between stream supervision and Ray, with fake actors and a virtual clock."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray._raylet import InnerGcsClient  # type: ignore[attr-defined]  # it is missing in the stub of this Cython module
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RaySystemError,
    RayTaskError,
)
from ray.serve._private.constants import SERVE_CONTROLLER_NAME
from ray.serve.exceptions import RayServeException

from serve_app.config import parse_args
from serve_app.deployments import ray_internals
from serve_app.deployments.handles import refusals_as_values
from serve_app.deployments.ray_workers import RayWorker, RayWorkers
from serve_app.deployments.stream_supervisor import StreamSupervisor
from serve_app.errors import NotFound, StartError, Unavailable
from serve_app.schemas.streams import Line, Regions, StreamStatus
from serve_app.streams.store import Record
from serve_app.streams.workers import WorkerDied, WorkerError, WorkerFailed, WorkerNotKilled, WorkerUnreachable
from serve_app.video.source import Source
from tests.support.fake_workers import FakeWorker, FakeWorkers, now_s, spec_of, supervising
from tests.support.principals import LOCAL
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio

GATE = Regions(lines=[Line(name="gate", start=(0, 0), end=(1, 1))])


@pytest.fixture
def anyio_backend() -> Any:
    return BACKEND


class Actor:
    """A fake actor handle for a worker.

    Like a real actor's method, each method returns a refusal instead of raising it.
    """

    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=refusals_as_values(getattr(self._worker, method)))


class Actors(FakeWorkers):
    """Fake workers behind fake actor handles."""

    def start(self, record: Record, source: Source) -> RayWorker:  # type: ignore[override]
        return RayWorker(Actor(super().start(record, source)))


class SupervisorWithoutCleanup(StreamSupervisor):
    """A supervisor without cleanup, because the asynchronous ``__del__`` works only in Serve."""

    def __del__(self) -> None:  # type: ignore[override]  # as above
        pass


async def test_regions_that_the_worker_refuses_are_refused_to_the_caller(tmp_path: Path) -> None:
    """When the actor returned a refusal as a value, an earlier version ignored the refusal and reported success."""
    workers = Actors()
    async with supervising(tmp_path, workers) as supervision:
        supervisor = SupervisorWithoutCleanup.__new__(SupervisorWithoutCleanup)
        supervisor._supervision = supervision
        assert isinstance(await supervisor.create(spec_of(), LOCAL), StreamStatus)
        await asyncio.sleep(1)
        workers.last.refusals["set_regions"] = StartError("no tracker")
        assert isinstance(await supervisor.set_regions("lot", LOCAL, GATE), StartError)
        assert (await supervisor.regions("lot", LOCAL)).lines == []
        assert isinstance(await supervisor.status("yard", LOCAL), NotFound)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ActorUnavailableError("cut off", b"0" * 16), WorkerUnreachable),
        (ActorDiedError(), WorkerDied),
        (RayActorError(), WorkerDied),
        (RayTaskError("status", "traceback", AttributeError("_stream")), WorkerFailed),
        (RaySystemError("out of order"), WorkerFailed),
    ],
)
async def test_rays_errors_become_worker_errors(raised: Exception, error: type[WorkerError]) -> None:
    async def fail() -> None:
        raise raised

    with pytest.raises(error) as caught:
        await RayWorker(SimpleNamespace(status=SimpleNamespace(remote=fail))).status()
    assert type(caught.value) is error
    # The message is logged. It must not contain the traceback, because a traceback may show credentials.
    assert str(caught.value) == type(raised).__name__


def test_two_handles_of_one_actor_are_one_worker() -> None:
    assert RayWorker("actor 1") == RayWorker("actor 1")
    assert RayWorker("actor 1") != RayWorker("actor 2")


class Cluster:
    """A fake of Ray's named actors. ``actors`` maps each name to the number of kills after which the actor is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **actors: float) -> None:
        self.actors = actors
        self.failure: Exception | None = None
        monkeypatch.setattr(ray, "get_actor", self._get)
        monkeypatch.setattr(ray, "kill", self._kill)

    def _get(self, name: str, namespace: str) -> str:
        assert namespace == ("serve" if name == SERVE_CONTROLLER_NAME else "sightline")
        if self.failure is not None:
            raise self.failure
        if not self.actors.get(name):
            raise ValueError("no such actor")
        return name

    def _kill(self, name: str) -> None:
        self.actors[name] -= 1


@pytest.fixture
def workers() -> RayWorkers:
    return RayWorkers("shop", parse_args({}))


async def test_a_kill_waits_until_the_name_is_free(workers: RayWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, **{"stream:shop:lot:0": 10, "stream:shop:lot:1": 1})
    await workers.kill("lot:0")
    assert cluster.actors == {"stream:shop:lot:0": 0, "stream:shop:lot:1": 1}
    await workers.kill("lot:0")  # the actor is already gone
    assert now_s() < 1


@pytest.mark.parametrize("failure", [None, GetTimeoutError("the head is down")])
async def test_an_actor_that_does_not_end_within_5_s_is_reported(
    failure: Exception | None, workers: RayWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version treated such an actor as dead."""
    Cluster(monkeypatch, **{"stream:shop:lot:0": float("inf")}).failure = failure
    with pytest.raises(WorkerNotKilled, match="within 5 s"):
        await workers.kill("lot:0")
    assert now_s() == pytest.approx(5, abs=0.1)


async def test_workers_are_found_by_their_application(workers: RayWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"stream:shop:lot:0": "sightline", "stream:shop2:a:0": "sightline", "stream:shop:x:0": "serve"}
    listed = [{"name": name, "namespace": namespace} for name, namespace in names.items()]
    monkeypatch.setattr(ray.util, "list_named_actors", lambda all_namespaces: listed)
    assert await workers.running() == {"lot:0"}


async def test_without_an_answer_of_the_head_nothing_counts_as_draining_or_gone(
    workers: RayWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster(monkeypatch).failure = GetTimeoutError("the head is down")
    assert await workers.draining_nodes() == set()  # this process is not connected to a Ray head
    assert await workers.is_application_gone() is False


async def test_an_application_is_gone_when_it_is_deleted_or_serve_is_shut_down(
    workers: RayWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, **{SERVE_CONTROLLER_NAME: 1})
    applications: dict[str, Any] = {}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    assert await workers.is_application_gone()
    for status, is_gone in (("DELETING", True), ("DEPLOYING", False), ("RUNNING", False), ("UNHEALTHY", False)):
        applications["shop"] = SimpleNamespace(status=status)
        assert await workers.is_application_gone() is is_gone
    cluster.actors.clear()
    assert await workers.is_application_gone()


@pytest.mark.parametrize(("autoscaling", "most"), [(None, 2), ({"max_replicas": 7}, 7)])
def test_the_most_replicas_are_those_of_the_autoscaling_config(
    autoscaling: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = {"target_num_replicas": 2, "deployment_config": {"autoscaling_config": autoscaling}}
    details = {"applications": {"shop": {"deployments": {"Detector": deployment}}}}
    monkeypatch.setattr(ray_internals, "_get_global_client", lambda: SimpleNamespace(get_serve_details=lambda: details))
    assert ray_internals.max_replica_count("shop", "Detector") == most


def test_only_running_replicas_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = {"Ingress": ["RUNNING", "STARTING", "RUNNING"], "JobRunner": []}
    deployments = {name: {"replicas": [{"state": one} for one in states]} for name, states in replicas.items()}
    details = {"applications": {"shop": {"deployments": deployments}}}
    monkeypatch.setattr(ray_internals, "_get_global_client", lambda: SimpleNamespace(get_serve_details=lambda: details))
    assert ray_internals.running_replicas("shop") == {"Ingress": 2, "JobRunner": 0}
    assert ray_internals.running_replicas("deleted") == {}


def test_replicas_are_unknown_if_serve_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RayServeException("Client has already been shut down.")

    monkeypatch.setattr(ray_internals, "_get_global_client", lambda: SimpleNamespace(get_serve_details=fail))
    with pytest.raises(Unavailable):
        ray_internals.running_replicas("shop")


def test_ray_still_has_the_call_for_draining_nodes() -> None:
    """If Ray removed this private method, ``draining_nodes`` would hide the error and always return an empty set."""
    assert callable(InnerGcsClient.get_draining_nodes)  # ``global_worker.gcs_client`` forwards its calls to this class


def test_ray_still_has_the_call_for_the_address_of_its_dashboard() -> None:
    """If Ray removed this private method, ``dashboard_url`` would hide the error and always return None."""
    assert callable(InnerGcsClient.internal_kv_get)


@pytest.mark.parametrize(("kept", "url"), [(b"127.0.0.1:8266", "http://127.0.0.1:8266"), (b"", None), (None, None)])
def test_the_dashboard_has_the_address_that_ray_keeps(
    kept: bytes | None, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SimpleNamespace(internal_kv_get=lambda *_, **__: kept)
    monkeypatch.setattr(ray_internals, "global_worker", SimpleNamespace(gcs_client=client))
    assert ray_internals.dashboard_url() == url


@pytest.mark.parametrize("folder", ["plain", "my project", "it's mine", 'the "new" one', "a$HOME;b#c", "Prüfstand"])
def test_an_actor_with_variables_starts_with_any_path_of_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Ray starts such an actor through a shell, and does not quote the interpreter's path."""
    interpreter = tmp_path / folder / "python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(interpreter))
        env = ray_internals.runtime_env({"A": "1"})
    context = (
        f"RuntimeEnvContext(env_vars={env['env_vars']!r}, py_executable={env.get('py_executable', sys.executable)!r})"
    )
    program = (
        "from ray._private.runtime_env.context import RuntimeEnvContext\n"
        "from ray.core.generated.common_pb2 import Language\n"
        f"{context}.exec_worker(['-c', 'import os; print(os.environ[\"A\"])'], Language.PYTHON)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")

"""Fixtures and options that all tests share."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")  # must be set before any test imports Ultralytics
# By default, PyTorch's threads spin while they wait for each other. If another process uses the same cores, a spinning
# thread keeps the thread for which it waits from running, and an inference takes many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell makes its background jobs ignore SIGINT, and child processes inherit this. Restore the handler, because some
# tests stop programs with SIGINT, as Ctrl-C does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.support import squares
from tests.support.paths import SHARED

_WITHOUT_RAY = tuple(f"tests/integration/{name}" for name in ("sinks/", "test_cameras.py", "test_client_package.py"))

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the folder ../shared with real photographs, videos and weights is missing"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options ``--chaos``, which adds slow tests and repeats each fault many times, and ``--clients``."""
    parser.addoption(
        "--chaos",
        action="store_true",
        help="run the slow tests, too, and repeat each fault as often as in the published measurements (takes 1 h)",
    )
    parser.addoption(
        "--clients", action="store_true", help="install the clients of other servers in environments of their own"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers. If ``--chaos`` is set, remove the time limit of the tests."""
    config.addinivalue_line("markers", "only_with_chaos: a slow test; a faster one covers the most important of it")
    config.addinivalue_line("markers", "only_with_clients: a test that installs another server's client")
    if config.getoption("--chaos"):
        config.option.timeout = 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test with one of the markers, before its fixtures are made, unless the marker's option is set."""
    if item.get_closest_marker("only_with_chaos") and not item.config.getoption("--chaos"):
        pytest.skip(
            "is slow, and a faster test covers the most important of it; run scripts/test --chaos to include it"
        )
    if item.get_closest_marker("only_with_clients") and not item.config.getoption("--clients"):
        pytest.skip("installs packages; recorded requests of this client are tested; run scripts/test --clients")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no type annotations
    """Give each file of tests to one process. All tests that start Ray go to the same process.

    They take longest, so they come first. Two Ray clusters at once would need more than two cores. Besides, many of
    these tests check that nothing is left behind in /dev/shm.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "Ray" if file.startswith("tests/integration/") and not file.startswith(_WITHOUT_RAY) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Tell pytest-xdist how to divide the tests among its processes."""
    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collections, because such a collection takes up to a second."""
    gc.freeze()


@pytest.fixture(scope="session")
def chaos(request: pytest.FixtureRequest) -> bool:
    """Return whether the option ``--chaos`` is set."""
    return bool(request.config.getoption("--chaos"))


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio only."""
    return "asyncio"


@pytest.fixture(autouse=True)
def ordinary_scheduling() -> Iterator[None]:
    """Restore this process's scheduling policy after each test. If the test has changed the policy, fail the test.

    Also fail a test that has lowered this process's priority. Only root could raise it again, and all later tests would
    be slower. Child processes inherit both. With a real-time policy, two threads that never sleep would stop a machine
    that has two cores.
    """
    before, niceness = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    yield
    assert os.getpriority(os.PRIO_PROCESS, 0) == niceness, "the test lowered the priority of this process"
    after = os.sched_getscheduler(0)
    os.sched_setscheduler(0, before, os.sched_param(0))
    assert after == before, "the test left this process with another scheduling policy: restore the policy"


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove Sightline's settings from the environment, and use no proxy for local servers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in [name for name in os.environ if name.startswith("SERVE_APP_")]:
        monkeypatch.delenv(name)


def trusted(weights: Path) -> dict[str, Any]:
    """Return the settings with which a checkpoint is loaded as a pickle. Such a checkpoint can run code."""
    return {"weights": str(weights), "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}


@pytest.fixture(scope="session")
def squares_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the squares model, whose answers are known, as an OpenVINO folder."""
    return squares.save_openvino(tmp_path_factory.mktemp("models") / "squares_openvino_model")

"""Fixtures that every kind of test shares."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")  # before any test imports Ultralytics
# A shell starts its background jobs with SIGINT ignored, and programs that they start inherit that. Tests stop some of
# these programs by SIGINT, as Ctrl-C does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.support import squares
from tests.support.paths import SHARED

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the folder ../shared (real photographs, videos and weights), which is not here"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--chaos: for who has an hour."""
    parser.addoption("--chaos", action="store_true", help="each fault as often as its figures are measured: an hour")


def pytest_configure(config: pytest.Config) -> None:
    """Lift the timeout of a test where each fault is repeated as often as its figures are measured."""
    if config.getoption("--chaos"):
        config.option.timeout = 0


@pytest.fixture(scope="session")
def chaos(request: pytest.FixtureRequest) -> bool:
    """Whether --chaos was asked for."""
    return bool(request.config.getoption("--chaos"))


@pytest.fixture
def only_with_chaos(chaos: bool) -> None:
    """For a test of minutes whose fault another one shows in seconds."""
    if not chaos:
        pytest.skip("takes minutes, and another test shows the same once: scripts/test --chaos runs it")


@pytest.fixture
def anyio_backend() -> str:
    """Run the tests that are coroutines on asyncio alone."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the shell's reaches a test, nor does its proxy stand before a server of ours."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in [name for name in os.environ if name.startswith("SERVE_APP_")]:
        monkeypatch.delenv(name)


def trusted(weights: Path) -> dict[str, Any]:
    """The settings with which a checkpoint, which is a pickle, is loaded."""
    return {"weights": str(weights), "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}


@pytest.fixture(scope="session")
def squares_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The known-answer model as an OpenVINO folder."""
    return squares.save_openvino(tmp_path_factory.mktemp("models") / "squares_openvino_model")

"""Tests that start the service as users do, with scripts/serve and with ``serve run``, and that run other scripts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from scripts.launch import free_port, is_ready
from scripts.trials.cluster import frame_pools
from tests.integration.conftest import (
    LONG_TIMEOUT_S,
    Running,
    eventually,
    stop_with_requests_in_flight,
    wait_for_release,
)
from tests.support import squares
from tests.support.paths import ROOT
from tests.support.squares import Square
from tests.support.videos import save_video

BIN = Path(sys.executable).parent
DEMO_TIMEOUT_S = 900


WITH_FLAGS, WITHOUT_FLAGS = "scripts/serve with Ray's flags, SIGTERM", "serve run without flags, Ctrl-C"


@pytest.fixture(params=[WITH_FLAGS, WITHOUT_FLAGS])
def running(request: pytest.FixtureRequest, squares_model: Path, tmp_path: Path) -> Iterator[Running]:
    """Serve the shipped local config on a free port."""
    port = free_port()
    env = os.environ | {
        "SERVE_APP_WEIGHTS": str(squares_model),
        "SERVE_APP_CONFIDENCE": "0.6",
        "SERVE_APP_THREADS": "1",
        "SERVE_APP_MEDIA_DIRS": str(tmp_path),
        "SERVE_APP_STATE_DIR": str(tmp_path / "state"),
    }
    if request.param == WITH_FLAGS:
        command = [str(ROOT / "scripts/serve"), "--port", str(port)]
        stop_signal = signal.SIGTERM
        # Another server on this machine may already use HAProxy's default ports.
        env |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    else:
        config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
        config["http_options"]["port"] = port
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = [str(BIN / "serve"), "run", "--address", "local", str(tmp_path / "config.yaml")]
        stop_signal = signal.SIGINT
    pools = frame_pools()
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: is_ready(url) or process.poll() is not None, what="readiness")
        assert process.poll() is None, log.read_text()[-3000:]
        yield Running(process, url, stop_signal, pools)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.only_with_chaos  # starts a whole service; the unit tests of the engines cover the sentence
def test_a_replica_that_cannot_start_ends_the_service_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(bytes(1000))
    pools = frame_pools()
    env = os.environ | {"SERVE_APP_WEIGHTS": str(tmp_path / "damaged.onnx"), "SERVE_APP_STATE_DIR": str(tmp_path)}
    env["RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT"] = "1"  # by default, Serve starts such a replica three times
    env |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    command = [str(ROOT / "scripts/serve"), "--port", str(free_port())]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1
    assert "OpenVINO cannot read damaged.onnx" in done.stderr.splitlines()[-1]
    wait_for_release(pools)


@pytest.mark.only_with_chaos  # test_package checks the most important of it with the service of the wheel
def test_the_service_answers_and_streams_and_leaves_nothing_running(running: Running, tmp_path: Path) -> None:
    picture = squares.encode(squares.picture([Square("red", 3, 4), Square("blue", 20, 4, 240)]))
    (found,) = httpx.post(f"{running.url}/detect", files={"file": picture}, timeout=LONG_TIMEOUT_S).json()["detections"]
    assert found["label"] == "red"  # the blue square's confidence is below the threshold
    large = squares.encode(
        squares.picture([Square("green", 9, 9)], scale=8), ".bmp"
    )  # 19 MB, above gRPC's default limit
    assert httpx.post(f"{running.url}/detect", content=large, timeout=LONG_TIMEOUT_S).json()["count"] == 1
    too_large = httpx.post(f"{running.url}/detect", content=bytes(100_000_000), timeout=LONG_TIMEOUT_S)
    assert (too_large.status_code, too_large.json()["code"]) == (413, "too_large")

    save_video(tmp_path / "squares.avi", frames=10, fps=20)

    def script(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "scripts/streams.py"), *arguments, "--url", running.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script("start", "--id", "lot", "--source", str(tmp_path / "squares.avi"))
    eventually(lambda: "completed" in script("list"), what="the stream's end")

    family = psutil.Process(running.process.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in family)
    if running.stop_signal == signal.SIGTERM:
        assert asyncio.run(stop_with_requests_in_flight(running, large)) == [200] * 8
        running.process.wait(90)
        assert (tmp_path / "log").read_text().endswith("\nthe service has stopped\n")
    else:  # ``serve run`` stops its proxy without waiting for requests in flight
        running.process.send_signal(running.stop_signal)
    running.process.wait(90)
    _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
    assert alive == []
    wait_for_release(running.pools_before)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{running.url}/livez")


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Running]:
    """Start scripts/serve, and do not wait until it is ready."""
    port, pools = free_port(), frame_pools()
    env = os.environ | {"SERVE_APP_STATE_DIR": str(tmp_path / "state")}
    env |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    command = [str(ROOT / "scripts/serve"), "--port", str(port)]
    with (tmp_path / "log").open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield Running(process, f"http://127.0.0.1:{port}", signal.SIGTERM, pools)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def find(words: str, family: list[psutil.Process]) -> psutil.Process | None:
    """Return the first process of ``family`` whose command line contains ``words``, or None."""
    for process in family:
        try:
            if words in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            pass  # skip a process that has just ended
    return None


def is_idle(process: psutil.Process) -> bool:
    """Return whether the process uses no CPU for a second."""
    used = process.cpu_times()[:2]
    time.sleep(1)
    return bool(used == process.cpu_times()[:2])


def test_the_service_can_be_stopped_while_it_waits_for_a_ray_that_does_not_respond(starting: Running) -> None:
    """While the driver waits in Ray's native code, no Python signal handler can run."""
    server = psutil.Process(starting.process.pid)
    eventually(lambda: find("raylet/raylet", server.children(recursive=True)), what="a raylet")
    family = server.children(recursive=True)
    gcs = find("gcs_server", family)
    driver = find("-m serve_app.cli.driver", family)
    assert gcs is not None
    assert driver is not None
    gcs.suspend()
    eventually(lambda: is_idle(driver), what="the driver")
    starting.process.terminate()
    assert starting.process.wait(LONG_TIMEOUT_S) == 0
    _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
    assert alive == []
    wait_for_release(starting.pools_before)


@pytest.mark.only_with_chaos  # the test above stops a service that starts, too
def test_the_service_can_be_stopped_while_ray_has_its_own_signal_handlers(starting: Running, tmp_path: Path) -> None:
    """In the process that has just started Ray, Ray's own handler would turn SIGTERM into SIGABRT."""
    eventually(lambda: "Started a local Ray instance" in (tmp_path / "log").read_text(), what="Ray")
    family = psutil.Process(starting.process.pid).children(recursive=True)
    starting.process.terminate()
    assert starting.process.wait(LONG_TIMEOUT_S) == 0
    _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
    assert alive == []
    wait_for_release(starting.pools_before)


def test_a_service_that_is_killed_while_ray_starts_leaves_no_ray_running(starting: Running) -> None:
    server = psutil.Process(starting.process.pid)
    eventually(lambda: find("raylet/raylet", server.children(recursive=True)), what="a raylet")
    family = server.children(recursive=True)
    server.kill()
    _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
    assert alive == []


def test_weights_that_do_not_exist_are_refused_at_once() -> None:
    """The service must not fall back to the embedded model, which is the default."""
    env = os.environ | {"SERVE_APP_WEIGHTS": "nowhere/yolo26n.pt"}
    serve = subprocess.run(
        [str(ROOT / "scripts/serve")], env=env, capture_output=True, text=True, check=False, timeout=LONG_TIMEOUT_S
    )
    assert (serve.returncode, "nowhere/yolo26n.pt" in serve.stderr) == (1, True)


def test_a_wrong_command_line_is_refused() -> None:
    done = subprocess.run([str(ROOT / "scripts/serve"), "--prot", "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, "Usage: sightline serve" in done.stderr) == (2, True)


@dataclass(frozen=True)
class Script:
    """A script that a test started."""

    process: subprocess.Popen[str]
    pools_before: set[str]

    def family(self) -> list[psutil.Process]:
        """Return all descendants of the script, including the server's processes, which are in another session."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def find(self, words: str) -> psutil.Process | None:
        """Return the first descendant of the script whose command line contains ``words``, or None."""
        return find(words, self.family())


@pytest.fixture
def demo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Script]:
    """Start the demo without network access, and with the arguments in the fixture's parameter."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "SERVE_APP_CACHE_DIR": str(tmp_path)}
    command = [str(ROOT / "scripts/demo"), *getattr(request, "param", [])]
    process = subprocess.Popen(
        command, env=os.environ | nowhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    demo = Script(process, frame_pools())
    server = None
    try:
        server = eventually(lambda: demo.find("-m serve_app"), what="a server")
        yield demo
    finally:
        process.kill()
        process.communicate()
        if server is not None and server.is_running():
            os.killpg(server.pid, signal.SIGKILL)


def assert_nothing_is_left(script: Script, family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=LONG_TIMEOUT_S)
    assert alive == []
    wait_for_release(script.pools_before)


def test_the_demo_that_is_interrupted_leaves_nothing_running(demo: Script) -> None:
    eventually(lambda: demo.find("raylet"), what="Ray")
    family = demo.family()
    demo.process.send_signal(signal.SIGTERM)
    output, _ = demo.process.communicate(timeout=LONG_TIMEOUT_S)
    assert demo.process.returncode == 128 + signal.SIGTERM, output
    assert_nothing_is_left(demo, family)


@pytest.mark.only_with_chaos  # the demo's test covers the same code for starting and stopping a server
def test_the_benchmark_that_is_interrupted_leaves_nothing_running() -> None:
    command = [sys.executable, str(ROOT / "scripts/bench.py"), "--engine", "null", "--no-peers"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    bench = Script(process, frame_pools())
    eventually(lambda: bench.find("raylet"), what="Ray")
    family = bench.family()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=LONG_TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert_nothing_is_left(bench, family)


@pytest.mark.only_with_chaos
def test_the_demo_leaves_nothing_running(demo: Script) -> None:
    eventually(lambda: demo.find("ServeReplica:sightline:Ingress"), what="the last replica")
    family = demo.family()
    output, _ = demo.process.communicate(timeout=DEMO_TIMEOUT_S)
    assert demo.process.returncode == 0, output
    assert_nothing_is_left(demo, family)


@pytest.mark.parametrize("demo", [["--keep"]], indirect=True)
def test_the_demo_finds_its_codes_and_is_kept_until_it_is_killed(demo: Script) -> None:
    output, _ = demo.process.communicate(timeout=DEMO_TIMEOUT_S)
    assert demo.process.returncode == 0, output
    assert "yolo26n.pt cannot be fetched" in output
    for name in ("parcels-found.jpg", "belt-found.jpg"):
        assert str(ROOT / "build/demo" / name) in output
    serving = re.search(r"docs +(\S+)/docs", output)
    assert serving is not None
    url = serving[1]
    assert httpx.get(f"{url}/readyz", timeout=10).json()["model"] == "codes"
    command = [sys.executable, str(ROOT / "scripts/streams.py"), "list", "--url", url]
    assert (
        "running" in subprocess.run(command, capture_output=True, text=True, timeout=LONG_TIMEOUT_S, check=True).stdout
    )

    stop = re.search(r"stop +kill (\d+)", output)
    assert stop is not None
    server = psutil.Process(int(stop[1]))
    family = [server, *server.children(recursive=True)]
    server.terminate()
    assert_nothing_is_left(demo, family)

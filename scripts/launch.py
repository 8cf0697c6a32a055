"""scripts/serve as a program that is started, waited for and stopped, in a Ray of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil

from serve_app.client import Client, SightlineError

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 300  # a slow disk
STOP_TIMEOUT_S = 90  # what was accepted is answered first
_CHILDREN_OUTLIVE_IT_S = 60  # Ray's agents, which were just being started
_ANSWER_TIMEOUT_S = 10.0
PORT = 8000  # Serve's default; another one where it is taken


class StartFailed(Exception):
    """The service did not get ready; the log's end says why."""


class StopFailed(Exception):
    """Something of the service had to be killed at its end."""


@dataclass(frozen=True)
class Server:
    """A scripts/serve that was started, and a client for it."""

    process: subprocess.Popen[bytes]
    log: Path
    client: Client

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.client.url

    def wait_until_ready(self) -> None:
        """Raises StartFailed."""
        wait_until_answered(f"{self.url}/readyz", self.process, self.log)

    @property
    def dashboard_url(self) -> str:
        """Of the Ray that it started, as its log says; "" where that names none."""
        found = re.search(r"dashboard at \S*?(127\.0\.0\.1:\d+)", text_of(self.log))
        return f"http://{found[1]}" if found else ""

    def stop(self) -> None:
        """It drains, and leaves nothing. Raises StopFailed, when all is ended that did not end by itself."""
        if left := stop_group(self.process):
            raise StopFailed(f"the service did not end by itself: {', '.join(left)}; see {self.log}")


def text_of(log: Path) -> str:
    """What a program wrote, in whatever encoding: UTF-8 where it is that."""
    return log.read_text(encoding="utf-8", errors="replace")


def make_folder(folder: Path) -> None:
    """Make a folder of our own to write into. Raises StartFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise StartFailed(f"{folder} cannot be written ({exc.strerror}): this needs a checkout of your own") from exc


def is_ready(url: str) -> bool:
    """Whether the application there answers with a warm model."""
    with Client(url, timeout_s=_ANSWER_TIMEOUT_S) as client:
        try:
            client.ready()
        except SightlineError:
            return False
    return True


def wait_until_answered(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a program that was started answers 200 there. Raises StartFailed."""
    expires_s = time.monotonic() + START_TIMEOUT_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > expires_s:
            raise StartFailed(f"the service did not start; the end of {log}:\n{text_of(log)[-2000:]}")
        time.sleep(0.25)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=_ANSWER_TIMEOUT_S, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def stop_on_signals() -> None:
    """Ends this program by an exception, so that what it started is stopped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def stop_group(process: subprocess.Popen[bytes]) -> list[str]:
    """Ends a program that leads a session of its own, and whatever of it is left after a while: returns its names."""
    family = []
    with suppress(psutil.Error):  # it has ended already
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    left = [] if process.poll() is not None else [f"process {process.pid}"]
    _, alive = psutil.wait_procs(family, timeout=_CHILDREN_OUTLIVE_IT_S)
    for child in alive:
        with suppress(psutil.Error):
            left.append(" ".join(child.cmdline())[:80])
            child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started since
    process.wait()
    return left


def ray_address(server_pid: int) -> str:
    """Of the Ray cluster that a server started for itself. Raises StartFailed."""
    return raylet_flag(server_pid, "gcs-address")


def raylet_flag(pid: int, flag: str) -> str:
    """From the command line of the raylet below a process. Raises StartFailed."""
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it ended while we looked
            found = re.search(rf"--{flag}=(\S+)", " ".join(process.cmdline()))
            if found and "raylet" in process.name():
                return found[1]
    raise StartFailed("no raylet runs below the server")


def start(
    config: Path,
    log: Path,
    *,
    root: Path = ROOT,
    variables: Mapping[str, str | None] = MappingProxyType({}),
    starter: Sequence[str] = (),
) -> Server:
    """scripts/serve CONFIG, in a Ray of its own, on ports that are free; not ready yet.

    It is that of the checkout ``root``, with ``variables`` besides the environment's (None: without it), and
    ``starter`` is a command that starts another one.
    """
    port = free_port(PORT)
    state = log.with_suffix(".state")
    shutil.rmtree(state, ignore_errors=True)
    ours = {
        "SERVE_APP_STATE_DIR": str(state),  # never a user's streams
        "RAY_ADDRESS": "local",  # never into a cluster that already serves something
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),  # their defaults, unless another server has them
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
    }
    command = [*starter, str(root / "scripts/serve"), str(config), "--port", str(port)]
    log.unlink(missing_ok=True)  # a server that was left running goes on writing into its own
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment({**ours, **variables}), stdout=output, stderr=output, start_new_session=True
        )
    return Server(process, log, Client(f"http://127.0.0.1:{port}"))


def environment(variables: Mapping[str, str | None]) -> dict[str, str]:
    """This program's, but for settings of Sightline, with these variables; without those that are None."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_APP_")}
    return {name: value for name, value in {**ours, **variables}.items() if value is not None}


def free_port(wanted: int = 0) -> int:
    """``wanted``, or any other when something listens there; 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])

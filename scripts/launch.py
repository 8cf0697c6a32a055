"""Start scripts/serve in its own Ray cluster, wait until it is ready, and stop it."""

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
START_TIMEOUT_S = 300  # long, because a start from a slow disk takes minutes
STOP_TIMEOUT_S = 90  # long, because the server first answers all accepted requests
_CHILDREN_TIMEOUT_S = 60  # long, because Ray's agents stop slowly while they are starting
_ANSWER_TIMEOUT_S = 10.0
PORT = 8000  # Serve's default port; if it is taken, any free port is used


class StartFailed(Exception):
    """The service could not be started. The message says why, or contains the end of the log."""


class StopFailed(Exception):
    """A process of the service did not stop by itself and was killed."""


@dataclass(frozen=True)
class Server:
    """A running scripts/serve, and a client for its API."""

    process: subprocess.Popen[bytes]
    log: Path
    client: Client

    @property
    def url(self) -> str:
        """The URL at which the server listens."""
        return self.client.url

    def wait_until_ready(self) -> None:
        """Wait until the server is ready. Raise StartFailed if the server exits, or is not ready within 300 s."""
        wait_until_answered(f"{self.url}/readyz", self.process, self.log)

    @property
    def dashboard_url(self) -> str:
        """The URL of Ray's dashboard according to the server's log, or "" if the log has no such URL."""
        found = re.search(r"dashboard at \S*?(127\.0\.0\.1:\d+)", read_log(self.log))
        return f"http://{found[1]}" if found else ""

    def stop(self) -> None:
        """Drain and stop the server. Raise StopFailed if a process had to be killed."""
        if left := stop_group(self.process):
            raise StopFailed(
                f"the service did not stop, so these processes were killed: {', '.join(left)}; see {self.log}"
            )


def read_log(log: Path) -> str:
    """Read a log as UTF-8, and replace invalid bytes."""
    return log.read_text(encoding="utf-8", errors="replace")


def make_folder(folder: Path) -> None:
    """Create ``folder`` if it does not exist. Raise StartFailed if the folder cannot be created or is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise StartFailed(f"{folder} cannot be written ({exc.strerror}): use a checkout that you own") from exc


def is_ready(url: str) -> bool:
    """Return whether the application at ``url`` is ready for requests."""
    with Client(url, timeout_s=_ANSWER_TIMEOUT_S) as client:
        try:
            client.ready()
        except SightlineError:
            return False
    return True


def wait_until_answered(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until ``url`` returns status 200. Raise StartFailed if the process exits, or if this takes over 300 s."""
    expires_at_s = time.monotonic() + START_TIMEOUT_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > expires_at_s:
            raise StartFailed(f"the service did not start; the last lines of {log} are:\n{read_log(log)[-2000:]}")
        time.sleep(0.25)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=_ANSWER_TIMEOUT_S, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def stop_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise SystemExit, so that ``finally`` blocks stop the started programs."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def stop_group(process: subprocess.Popen[bytes]) -> list[str]:
    """Stop a program that leads its own session. Kill the processes that do not stop, and return their commands."""
    family = []
    with suppress(psutil.Error):  # the program has already ended
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    left = [] if process.poll() is not None else [f"process {process.pid}"]
    _, alive = psutil.wait_procs(family, timeout=_CHILDREN_TIMEOUT_S)
    for child in alive:
        with suppress(psutil.Error):
            left.append(" ".join(child.cmdline())[:80])
            child.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also kill processes that started after the children were listed
    process.wait()
    return left


def ray_address(server_pid: int) -> str:
    """Return the address of the Ray cluster that a server started. Raise StartFailed if no cluster is running."""
    return raylet_flag(server_pid, "gcs-address")


def raylet_flag(pid: int, flag: str) -> str:
    """Return the value of a command-line flag of the raylet, which is Ray's main process on a node.

    The raylet is a descendant of process ``pid``. Raise StartFailed if no raylet is running.
    """
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # skip a process that has just ended
            found = re.search(rf"--{flag}=(\S+)", " ".join(process.cmdline()))
            if found and "raylet" in process.name():
                return found[1]
    raise StartFailed("the server has no running raylet")


def start(
    config: Path,
    log: Path,
    *,
    root: Path = ROOT,
    variables: Mapping[str, str | None] = MappingProxyType({}),
    starter: Sequence[str] = (),
    program: Sequence[str] = (),
) -> Server:
    """Start ``scripts/serve CONFIG`` in its own Ray cluster, on free ports, and return before the server is ready.

    ``root`` is the checkout to use. ``variables`` are added to the environment, and those with the value None are
    removed from it. ``starter`` is a command prefix, such as ``prlimit`` with its options, that runs the script.
    ``program`` replaces the script, for a machine on which the script cannot install packages.
    """
    port = free_port(PORT)
    state = log.with_suffix(".state")
    shutil.rmtree(state, ignore_errors=True)
    ours = {
        "SERVE_APP_STATE_DIR": str(state),  # do not restore the user's streams
        "RAY_ADDRESS": "local",  # do not join an existing cluster
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),  # use the default ports if they are free
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
    }
    command = [*starter, *(program or [str(root / "scripts/serve")]), str(config), "--port", str(port)]
    log.unlink(missing_ok=True)  # an earlier server that still runs must not write to the new file
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment({**ours, **variables}), stdout=output, stderr=output, start_new_session=True
        )
    return Server(process, log, Client(f"http://127.0.0.1:{port}"))


def environment(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return this program's environment without Sightline's settings, and with ``variables``.

    A variable with the value None is removed.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_APP_")}
    return {name: value for name, value in {**ours, **variables}.items() if value is not None}


def free_port(wanted: int = 0) -> int:
    """Return ``wanted`` if that port is free, or else any free port. 0 stands for any port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])

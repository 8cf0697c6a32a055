"""python -m serve_app CONFIG [--port N]: serve a config in a Ray of its own, until SIGTERM or Ctrl-C.

An error in the config or on the machine is reported at once, in one sentence, with exit status 1. At the end, the
service answers the requests that it has accepted, and leaves nothing running. ``RAY_ADDRESS`` names a cluster to join
in place of starting one.

This process takes the signals, and imports no Ray: ``serve_app.cli.driver``, which it starts, does the work. While Ray
starts, it replaces our signal handlers by its own, one of which aborts the process, and it waits in native code, where
no Python handler runs. So the driver never gets a signal: the end of its standard input tells it to stop.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from serve_app.cli.output import print_any_text
from serve_app.cli.surroundings import prepare_environment
from serve_app.errors import StartError
from serve_app.ipc import dev_shm

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main() -> None:
    """Exit with 0 when the service was told to stop, and with 1 when it could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--port", type=int, help="in place of http_options.port")
    print_any_text()
    parser.parse_args()
    has_own_ray = os.environ.setdefault("RAY_ADDRESS", "local") == "local"
    try:
        with prepare_environment(_tell) if has_own_ray else nullcontext():
            status = _run([sys.executable, "-m", "serve_app.cli.driver", *sys.argv[1:]])
    except StartError as exc:
        sys.exit(exc.detail)
    sys.exit(status)


def _run(driver: list[str]) -> int:
    """Run the driver to its end, and end every process that it leaves. Returns its exit status."""
    _adopt_orphans()
    try:
        return Driver(driver).wait()
    finally:
        end_children()
        dev_shm.sweep()  # what killed processes left behind


class Driver:
    """The process of ``serve_app.cli.driver``. A socket is its standard input: on it, it says that Ray has started.

    It has a session of its own, so that a terminal's Ctrl-C reaches only this process.
    """

    def __init__(self, command: list[str]) -> None:
        self._should_stop = False
        self._was_killed = False
        self._socket, its_socket = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a shell has its background jobs ignore SIGINT
            signal.signal(number, self._take_signal)
        with its_socket:
            self._process = subprocess.Popen(command, stdin=its_socket.fileno(), start_new_session=True)
        if self._should_stop:
            self._stop(self._process)

    def wait(self) -> int:
        """Wait until it ends, and return its exit status as shells count it. Orphans are reaped meanwhile."""
        assert self._process is not None
        while True:
            pid, status = os.wait()
            if pid == self._process.pid:
                code = self._process.returncode = os.waitstatus_to_exitcode(status)
                return 0 if self._was_killed else code if code >= 0 else 128 - code

    def _take_signal(self, *_: object) -> None:
        self._should_stop = True
        if self._process is not None:
            self._stop(self._process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Make it drain the service. While Ray starts, kill it: it has accepted no request and may not respond."""
        if self._has_started_ray():
            with suppress(OSError):  # it has ended
                self._socket.shutdown(socket.SHUT_WR)
        else:
            self._was_killed = True
            process.kill()

    def _has_started_ray(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> None:
    """Kill every child: processes that Ray was just starting would notice its end only after a minute or more."""
    while pids := [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

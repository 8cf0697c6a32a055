"""The command ``sightline serve``, which starts Ray and serves a config until SIGTERM or Ctrl-C.

This process handles signals, and starts ``serve_app.cli.driver``, which does everything that needs Ray. Signals cannot
be handled in the driver. While Ray starts, it installs its own signal handlers, and one of them aborts the process. Ray
also blocks in native code, where Python's signal handlers do not run. The driver therefore receives no signals. It
stops when its standard input ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.configs import find_config, names, ray_flags
from serve_app.cli.ports import check_api_port
from serve_app.cli.surroundings import prepare_environment
from serve_app.ipc import dev_shm

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_WEIGHTS = "SERVE_APP_WEIGHTS"
_NO_PATHS = {"", "codes"}  # codes is the name of the embedded model


def serve(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help=f"{', '.join(names())}, or a Serve config in YAML.")
    ] = "local",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Serve this model, whatever the config says. A published name such as yolo26n.pt is downloaded once.  "
            "[default: SERVE_APP_WEIGHTS]",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=65535, help="The HTTP port.  [default: http_options.port of the config]"),
    ] = None,
) -> None:
    """Serve a model over HTTP until Ctrl-C or SIGTERM.

    When the service stops, it answers the requests that it has accepted, and leaves no process running. If RAY_ADDRESS
    is set, the command joins that cluster instead of starting one.
    """
    path = find_config(config)
    os.environ |= {name: value for name, value in ray_flags().items() if name not in os.environ}
    # In another locale, Ray's processes and ours would crash at a character that the locale's encoding lacks.
    os.environ["PYTHONUTF8"] = "1"
    if _WEIGHTS in os.environ:
        os.environ[_WEIGHTS] = absolute_if_exists(os.environ[_WEIGHTS])
    # No process of the service imports modules from the current folder, which may be a folder with downloaded files.
    os.environ["PYTHONSAFEPATH"] = "1"
    driver = [sys.executable, "-m", "serve_app.cli.driver", str(path), str(port or "")]
    if weights is not None:
        driver.append(absolute_if_exists(weights))
    has_own_ray = os.environ.setdefault("RAY_ADDRESS", "local") == "local"
    if has_own_ray:
        check_api_port(path, port)
    with prepare_environment(_tell) if has_own_ray else nullcontext():
        _tell(f"starting Ray for {path}" if has_own_ray else f"deploying {path} to the Ray at RAY_ADDRESS")
        status = _run(driver)
    raise typer.Exit(status)


def absolute_if_exists(weights: str) -> str:
    """Return the absolute path of a file or folder. Return any other value unchanged, because it may be a name."""
    path = Path(os.path.expanduser(weights))  # unlike Path.expanduser, this never raises an error
    return str(path.absolute()) if weights not in _NO_PATHS and path.exists() else weights


def _run(driver: list[str]) -> int:
    """Run the driver until it ends, kill every process that it has left behind, and return its exit status."""
    _adopt_orphans()
    running = Driver(driver)
    try:
        return running.wait()
    finally:
        leave_nothing()
        if running.should_stop:
            with suppress(OSError):  # the terminal has been closed
                _tell("the service has stopped")


class Driver:
    """The process of ``serve_app.cli.driver``.

    The driver's standard input is a socket to this process, through which the driver reports that Ray has started. The
    driver runs in a session of its own, so Ctrl-C in a terminal sends a signal to this process only.
    """

    def __init__(self, command: list[str]) -> None:
        self.should_stop = False
        self._was_killed = False
        self._socket, its_socket = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        # We also set a handler for SIGINT, because a shell starts background jobs with SIGINT ignored.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take_signal)
        with its_socket:
            self._process = subprocess.Popen(command, stdin=its_socket.fileno(), start_new_session=True)
        if self.should_stop:
            self._stop(self._process)

    def wait(self) -> int:
        """Wait until the driver ends, and return its exit status, or 128 + N if signal N ended it.

        Reap orphans in the meantime.
        """
        assert self._process is not None
        while True:
            pid, status = os.wait()
            if pid == self._process.pid:
                code = self._process.returncode = os.waitstatus_to_exitcode(status)
                return 0 if self._was_killed else code if code >= 0 else 128 - code

    def _take_signal(self, *_: object) -> None:
        self.should_stop = True
        if self._process is not None:
            self._stop(self._process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Make the driver drain the service and exit.

        While Ray is still starting, kill the driver instead. The driver has not accepted any
        request yet, and Ray may prevent it from responding.
        """
        if self._has_started_ray():
            with suppress(OSError):  # the driver has already ended
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


def leave_nothing() -> None:
    """Kill every descendant, and remove the files that killed processes have left in shared memory.

    Processes that Ray was just starting would otherwise run for a minute or more before they notice that Ray has ended.
    """
    _adopt_orphans()
    while pids := [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]:
        for pid in pids:
            with suppress(ProcessLookupError):  # another thread has already waited for this child
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    dev_shm.sweep_all()


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

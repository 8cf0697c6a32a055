"""python -m serve_app CONFIG [--port N]: serve a config in a Ray of its own, until SIGTERM or Ctrl-C.

What keeps it from starting is said in one sentence, at once, with exit status 1. At the end it answers what it has
accepted, and leaves nothing running. ``RAY_ADDRESS`` names a cluster to join instead.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import signal
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("RAY_ADDRESS", "local")  # read when Serve's command is imported

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview
from ray.serve.scripts import run as serve_run

from serve_app.cli.output import print_any_text
from serve_app.cli.surroundings import made_fit
from serve_app.deployments import preflight
from serve_app.errors import StartError
from serve_app.ipc import dev_shm
from serve_app.types import Json

_LOOK_PERIOD_S = 0.5
_NO_SERVE = (RayServeException, RayError, TimeoutError)  # there is none any more, or it does not answer
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_told_to_stop = threading.Event()
_SENTENCE = re.compile(r"serve_app\.errors\.\w+: (.+)")  # in what Serve says of a replica that did not start


def main() -> None:
    """Exits 0 when it was told to stop, 1 when it could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--port", type=int, help="in place of http_options.port")
    print_any_text()
    options = parser.parse_args()
    _on_signals(_stop)  # a shell has its background jobs ignore SIGINT
    try:
        config = preflight.read(options.config)
        if options.port is not None:
            config.setdefault("http_options", {})["port"] = options.port
        is_ours = os.environ["RAY_ADDRESS"] == "local"  # the Ray in which it is to run
        if is_ours:
            preflight.check(config)
        with made_fit(_tell) if is_ours else nullcontext():
            _serve(config)
    except StartError as exc:
        sys.exit(exc.detail)
    except KeyboardInterrupt:
        pass


def _serve(config: Json) -> None:
    """Until it is told to stop. Raises StartError."""
    _adopt_orphans(True)
    try:
        with os.fdopen(os.memfd_create("config.yaml"), "w") as file:  # no disk has to have room for it
            yaml.safe_dump(config, file)
            file.flush()
            _run(f"/proc/self/fd/{file.fileno()}")
        _on_signals(_stop)  # Ray has put its own handlers in their place
        names = [application["name"] for application in config["applications"]]
        while not all(_is_running(name) for name in names):
            time.sleep(_LOOK_PERIOD_S)
        _adopt_orphans(False)  # else they would stay zombies
        print(f"serving {', '.join(names)}; Ctrl-C ends it", flush=True)
        while True:
            signal.pause()
    finally:
        _on_signals(signal.SIG_IGN)  # it ends already
        _adopt_orphans(True)
        try:
            if ray.is_initialized():
                _shut_down()
        finally:
            _end_children()
            dev_shm.sweep()  # what killed processes left behind


def _shut_down() -> None:
    """What was accepted is answered first: Serve's own shutdown would end the proxy meanwhile."""
    try:
        with suppress(*_NO_SERVE):
            for name in serve.status().applications:
                serve.delete(name)
        with suppress(*_NO_SERVE):
            serve.shutdown()
    finally:
        ray.shutdown()


def _adopt_orphans(adopt: bool) -> None:
    """Whether processes whose parent ends become children of this one."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def _end_children() -> None:
    """Ray has ended what it knows of; what its raylet was just starting does not notice for a minute or more."""
    while pids := [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _run(config: str) -> None:
    """As the command ``serve run`` does, but not until the end. Raises StartError, KeyboardInterrupt."""
    try:
        serve_run.main([config, "--non-blocking"], standalone_mode=False)
    except SystemExit as exc:  # it exits 0 whatever happened, but for a signal that Ray took
        if _told_to_stop.is_set() or exc.code:
            raise KeyboardInterrupt from exc
        raise StartError("Ray Serve did not start: what it said stands above") from exc
    except Exception as exc:  # whatever it is that Ray found on this machine
        logs = f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"
        reason = next(iter(str(exc).splitlines()), "")
        raise StartError(f"Ray did not start ({type(exc).__name__}: {reason}): see {logs}") from exc


def _is_running(name: str) -> bool:
    """Raises StartError, as soon as a replica says what waiting cannot mend."""
    application = serve.status().applications.get(name)
    if application is None:
        return False
    for message in (application.message, *(one.message for one in application.deployments.values())):
        if found := _SENTENCE.findall(message):
            raise StartError(found[-1])
    if application.status == "DEPLOY_FAILED":
        raise StartError(_why(name, application))
    return bool(application.status == "RUNNING")


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _why(name: str, application: ApplicationStatusOverview) -> str:
    """Return one sentence for an application that failed without one of ours; its own message only names who failed."""
    for deployment, state in application.deployments.items():
        if state.status == "DEPLOY_FAILED":
            if "died" in state.message.lower():
                return f"{deployment} died while it started: it may have run out of memory, and its log may say more"
            lines = [line.strip() for line in state.message.splitlines() if line.strip()]
            return f"{deployment} does not start: {lines[-1] if lines else 'see its log'}"
    return f"{name} cannot be deployed: {application.message}"


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handler)


def _stop(number: int, _: object) -> None:
    _told_to_stop.set()
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

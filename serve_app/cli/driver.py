"""The driver process, which starts Ray and deploys a config. ``serve_app.cli.serve`` starts and stops it.

Usage: python -m serve_app.cli.driver CONFIG PORT [WEIGHTS]. PORT may be empty. WEIGHTS replaces the config's weights.
The driver's standard input is a socket to ``serve_app.cli.serve``. The driver writes one byte to the socket when Ray
has started. The driver stops when the socket is closed, which also happens when ``serve_app.cli.serve`` is killed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import ray
import yaml
from ray import serve
from ray._private.worker import get_dashboard_url
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview
from ray.serve.scripts import run as serve_run

from serve_app.cli.doctor import lacking_resources
from serve_app.cli.fetch import ProgressBar
from serve_app.cli.output import print_any_text
from serve_app.cli.serve import leave_nothing
from serve_app.cli.startup import ExportProgress, addresses
from serve_app.config import ModelArgs
from serve_app.deployments import preflight
from serve_app.deployments.handles import detector_name
from serve_app.errors import StartError
from serve_app.models.checkpoint.failures import printable
from serve_app.types import DEFAULT_MODEL, Json

_PACKAGES = Path(__file__).parents[2]  # the folder that has the package serve_app
_POLL_INTERVAL_S = 0.5
_NO_SERVE = (RayServeException, RayError, TimeoutError)  # raised if Serve has already ended or does not answer
_SENTENCE = re.compile(r"serve_app\.errors\.\w+: (.+)")  # finds our own error in Serve's message about a failed replica
_has_started_ray = threading.Event()
_should_stop = threading.Event()


def main() -> None:
    """Serve until standard input ends. If the config cannot be served, print one sentence and exit with status 1."""
    path, port, *weights = sys.argv[1:]
    print_any_text()
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    status = 0
    try:
        config = preflight.read(Path(path))
        if port:
            config.setdefault("http_options", {})["port"] = int(port)
        if weights:
            replace_weights(config, weights[0])
        models: list[ModelArgs] = []
        if os.environ.get("RAY_ADDRESS") == "local":
            preflight.check(config, ProgressBar())
            warn_of_lacking_resources(config)
            models = [one.model for _, _, detectors, _ in preflight.applications_of(config) for one in detectors]
        _serve(config, ExportProgress(models, lambda line: print(line, flush=True)))
    except StartError as exc:
        print(printable(exc.detail), file=sys.stderr)
        status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    _exit(status)


def warn_of_lacking_resources(config: Json) -> None:
    """Warn if the machine has fewer cores or GPUs than the config needs.

    The config is not refused, because Ray may have been told to count other numbers of cores and GPUs.
    """
    for finding in lacking_resources(config):
        print(f"{finding.check}: {finding.found}; some replicas may never start: {finding.fix}", file=sys.stderr)


def replace_weights(config: Json, weights: str) -> None:
    """Make every Sightline application of a config serve these weights as its default model."""
    for application in config["applications"]:
        if application["import_path"] == preflight.IMPORT_PATH:
            args = application["args"] = application.get("args") or {}
            args["model"] = (args.get("model") or {}) | {"weights": weights, "weights_sha256": None}
            for deployment in application.get("deployments", []):
                changed = (deployment.get("user_config") or {}).get("model") or {}
                if deployment["name"] == detector_name(DEFAULT_MODEL):
                    changed.pop("weights", None)
                    changed.pop("weights_sha256", None)


def _stop_at_end_of_input() -> None:
    """Wait until standard input ends, then let the main thread drain the service.

    While Ray is still starting, exit at once instead. No request has been accepted yet, and the main thread may be
    blocked in Ray's native code.
    """
    with suppress(ConnectionResetError):  # the other process was killed before it read our byte
        while os.read(sys.stdin.fileno(), 4096):
            pass
    _should_stop.set()
    if not _has_started_ray.is_set():
        _exit(0)


def _exit(status: int) -> NoReturn:
    """Kill Ray's processes and exit.

    ``ray.shutdown`` would stop the processes one after the other. If a process is still running when Ray's
    control service (GCS) has stopped, that process keeps a core busy.
    """
    leave_nothing()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(config: Json, exports: ExportProgress) -> None:
    """Serve until ``_should_stop`` is set. Raise StartError if Ray or the application does not start."""
    has_served = False
    try:
        with os.fdopen(os.memfd_create("config.yaml"), "w") as file:  # in memory; the disk may be full
            yaml.safe_dump(config, file)
            file.flush()
            _deploy(f"/proc/self/fd/{file.fileno()}")
        _has_started_ray.set()
        os.write(sys.stdin.fileno(), b"1")
        names = [application["name"] for application in config["applications"]]
        while not all(_is_running(name) for name in names):
            if _should_stop.wait(_POLL_INTERVAL_S):
                return
            exports.report()
        has_served = True
        print(addresses(config, get_dashboard_url()), flush=True)
        _should_stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # we are already stopping
        # If our own Ray has never been ready, its processes are killed without draining them. There are no requests to
        # finish, and Serve would wait 40 s for each replica that cannot start because the machine lacks cores or GPUs.
        if ray.is_initialized() and (has_served or os.environ.get("RAY_ADDRESS") != "local"):
            _drain()


def _drain() -> None:
    """Finish all accepted requests, then end Serve.

    The applications are deleted first, because ``serve.shutdown`` would end the HTTP proxy before the replicas.
    """
    with suppress(*_NO_SERVE):
        for name in serve.status().applications:
            serve.delete(name)
    with suppress(*_NO_SERVE):
        serve.shutdown()


def _deploy(config: str) -> None:
    """Start Ray and deploy the config, as the command ``serve run`` does. Raise StartError if that fails."""
    try:
        # `serve run` adds the folder --app-dir, which is the current folder by default, to the path for imports.
        serve_run.main([config, "--non-blocking", "--app-dir", str(_PACKAGES)], standalone_mode=False)
    except SystemExit as exc:  # `serve run` exits with status 0 even after an error
        raise StartError("Ray Serve did not start: see its messages above for the reason") from exc
    except Exception as exc:  # Ray raises errors of many types if the machine has a problem
        logs = f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"
        reason = next(iter(str(exc).splitlines()), "")
        raise StartError(f"Ray did not start ({type(exc).__name__}: {reason}): see {logs}") from exc


def _is_running(name: str) -> bool:
    """Return whether the application is running. Raise StartError if it has failed permanently."""
    application = serve.status().applications.get(name)
    if application is None:
        return False
    for message in (application.message, *(one.message for one in application.deployments.values())):
        if found := _SENTENCE.findall(message):
            raise StartError(found[-1])
    if application.status == "DEPLOY_FAILED":
        raise StartError(_why(name, application))
    return bool(application.status == "RUNNING")


def _why(name: str, application: ApplicationStatusOverview) -> str:
    """Return one sentence that says why an application failed.

    The application's own message only names the failed deployment, so the reason comes from that deployment's message.
    """
    for deployment, state in application.deployments.items():
        if state.status == "DEPLOY_FAILED":
            if "died" in state.message.lower():
                return f"{deployment} died while it started: it may have run out of memory; see its log"
            lines = [line.strip() for line in state.message.splitlines() if line.strip()]
            return f"{deployment} does not start: {lines[-1] if lines else 'see its log'}"
    return f"{name} cannot be deployed: {application.message}"


if __name__ == "__main__":
    main()

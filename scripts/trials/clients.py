"""Clients that post one image repeatedly and record the outcome of every request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.client import ApiError, Client, DetectResult

_TIMEOUT_S = 90.0  # longer than the server's deadline for requests
_PAUSE_S = 0.1  # between the requests of a client, so that the load stays below the server's capacity
_FIRST_ANSWERS = 3  # the trial breaks nothing before each client has received this many answers
CUTS_CONNECTIONS = {"Ingress", "HAProxy"}  # clients must not notice the death of any other process


@dataclass(frozen=True)
class Request:
    """One request, with times of the monotonic clock."""

    started_at_s: float
    ended_at_s: float
    problem: str = ""  # what the client got instead of the right answer


@dataclass(frozen=True)
class Death:
    """A killed process, with the times of its kill and of its end on the monotonic clock."""

    victim: str
    at_s: float
    ended_at_s: float


@dataclass(frozen=True)
class Loss:
    """A failed request, and the process whose death most likely caused the failure."""

    problem: str
    victim: str  # "" if no process had died before the request ended
    was_cut: bool  # the request was in flight when the victim died

    @property
    def is_excused(self) -> bool:
        """Whether the request failed because its connection broke. No retry inside the server can prevent that."""
        return self.was_cut and self.victim in CUTS_CONNECTIONS


def losses(requests: Sequence[Request], deaths: Sequence[Death]) -> list[Loss]:
    """Return every failed request together with the process whose death most likely caused the failure."""
    found = []
    for request in (one for one in requests if one.problem):
        during = [
            one.victim for one in deaths if request.started_at_s <= one.ended_at_s and one.at_s <= request.ended_at_s
        ]
        before = [one.victim for one in deaths if one.ended_at_s < request.started_at_s]
        during.sort(key=lambda victim: victim in CUTS_CONNECTIONS)
        found.append(Loss(request.problem, (during or before or [""])[-1], bool(during)))
    return found


Judge = Callable[[DetectResult], bool]


def same_labels(expected: DetectResult) -> Judge:
    """Return a function that tells whether a result has the same labels as ``expected``."""
    return lambda result: sorted(result.labels) == sorted(expected.labels)


class Clients:
    """Several clients, each with its own thread and its own persistent connection."""

    def __init__(self, url: str, picture: bytes, count: int, judge: Judge | None, model: str | None) -> None:
        self.requests: list[Request] = []
        self._url = url
        self._picture = picture
        self._model = model
        with Client(url, timeout_s=_TIMEOUT_S) as client:
            self._judge = judge or same_labels(client.detect(picture, model=model))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def problems(self) -> list[str]:
        """One message for each request that did not get the right answer."""
        return [f"a request got {request.problem}" for request in self.requests if request.problem]

    def close(self) -> None:
        """Stop the clients after their requests in flight are answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with Client(self._url, timeout_s=_TIMEOUT_S) as client:
            while not self._stop.wait(_PAUSE_S):
                started_at_s = time.monotonic()
                problem = self._ask(client)
                self.requests.append(Request(started_at_s, time.monotonic(), problem))

    def _ask(self, client: Client) -> str:
        try:
            result = client.detect(self._picture, model=self._model)
            return "" if self._judge(result) else f"a wrong answer: {result!r:.200}"
        except ApiError as exc:
            return f"{exc.status_code} {exc.code}: {exc}"
        except Exception as exc:  # record any failure as a problem, so that the client continues
            return f"{type(exc).__name__}: {exc}"


@contextmanager
def clients(
    url: str, picture: bytes, count: int, judge: Judge | None = None, model: str | None = None
) -> Iterator[Clients]:
    """Run ``count`` clients, and start the ``with`` block once the clients have received their first answers.

    The clients stop when the block ends. ``judge`` returns whether an answer is right. Without ``judge``, every answer
    must have the labels of the first answer.
    """
    crowd = Clients(url, picture, count, judge, model)
    try:
        while len(crowd.requests) < count * _FIRST_ANSWERS:
            time.sleep(_PAUSE_S)
        yield crowd
    finally:
        crowd.close()

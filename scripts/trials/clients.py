"""Clients that post one image repeatedly and record the outcome of every request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.client import ApiError, Client, DetectResult

_TIMEOUT_S = 90.0  # above the server's deadline
_PAUSE_S = 0.1  # a steady load, below what the server can take
_FIRST_ANSWERS = 3  # that each client must have received before the trial breaks anything
CUTS_CONNECTIONS = {"Ingress", "HAProxy"}  # for any other process, clients never notice its death


@dataclass(frozen=True)
class Request:
    """One request; its times are on the monotonic clock."""

    started_at_s: float
    ended_at_s: float
    problem: str = ""  # what the client got instead of the right answer


@dataclass(frozen=True)
class Death:
    """A killed process: when it was killed and when it had ended, on the monotonic clock."""

    victim: str
    at_s: float
    ended_at_s: float


@dataclass(frozen=True)
class Loss:
    """A failed request, and the death that explains the failure best."""

    problem: str
    victim: str  # "": no process had died before it
    was_cut: bool  # the request was in flight when that process died

    @property
    def is_excused(self) -> bool:
        """Whether no retry could have saved the request, because its connection broke."""
        return self.was_cut and self.victim in CUTS_CONNECTIONS


def losses(requests: Sequence[Request], deaths: Sequence[Death]) -> list[Loss]:
    """Return every failed request together with the death that explains it best."""
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
    """Return a judge that accepts results with the same labels as ``expected``."""
    return lambda result: sorted(result.labels) == sorted(expected.labels)


class Clients:
    """A number of clients, each with its own thread and its own persistent connection."""

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
        """Stop the clients once their requests in flight are answered."""
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
    """Run ``count`` clients within a block, which begins when each of them has received its first answers.

    ``judge`` tells whether an answer is right. Without one, every answer must have the labels of the first.
    """
    crowd = Clients(url, picture, count, judge, model)
    try:
        while len(crowd.requests) < count * _FIRST_ANSWERS:
            time.sleep(_PAUSE_S)
        yield crowd
    finally:
        crowd.close()

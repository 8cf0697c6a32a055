"""Clients that post a picture over and over, and remember what became of each request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.client import ApiError, Client, DetectResult

_TIMEOUT_S = 90.0  # above the server's deadline
_PAUSE_S = 0.1  # a steady load, not all that the server takes
_FIRST_ANSWERS = 3  # of each client, before anything is broken
CUTS_CONNECTIONS = {"Ingress", "HAProxy"}  # the death of any other is hidden from who posts pictures


@dataclass(frozen=True)
class Request:
    """One of them, on the monotonic clock."""

    begun_s: float
    ended_s: float
    problem: str = ""  # what it got in place of the right answer


@dataclass(frozen=True)
class Death:
    """That a process was killed, on the monotonic clock: it took until ``ended_s`` to end."""

    victim: str
    at_s: float
    ended_s: float


@dataclass(frozen=True)
class Loss:
    """A request that did not get its answer, and the death that explains it best."""

    problem: str
    victim: str  # "": nothing had died before it
    was_cut: bool  # it was under way when that died

    @property
    def is_excused(self) -> bool:
        """Nothing could have saved it."""
        return self.was_cut and self.victim in CUTS_CONNECTIONS


def losses(requests: Sequence[Request], deaths: Sequence[Death]) -> list[Loss]:
    """Every request that failed, whenever it ended."""
    found = []
    for request in (one for one in requests if one.problem):
        during = [one.victim for one in deaths if request.begun_s <= one.ended_s and one.at_s <= request.ended_s]
        before = [one.victim for one in deaths if one.ended_s < request.begun_s]
        during.sort(key=lambda victim: victim in CUTS_CONNECTIONS)
        found.append(Loss(request.problem, (during or before or [""])[-1], bool(during)))
    return found


Judge = Callable[[DetectResult], bool]


def same_labels(expected: DetectResult) -> Judge:
    """Return what says whether a result has the labels of this one."""
    return lambda result: sorted(result.labels) == sorted(expected.labels)


class Clients:
    """So many, each in a thread, on a connection that it keeps."""

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
        """Of each request that did not get the right answer."""
        return [f"a request got {request.problem}" for request in self.requests if request.problem]

    def close(self) -> None:
        """When the requests under way are answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with Client(self._url, timeout_s=_TIMEOUT_S) as client:
            while not self._stop.wait(_PAUSE_S):
                begun_s = time.monotonic()
                problem = self._ask(client)
                self.requests.append(Request(begun_s, time.monotonic(), problem))

    def _ask(self, client: Client) -> str:
        try:
            result = client.detect(self._picture, model=self._model)
            return "" if self._judge(result) else f"another answer: {result!r:.200}"
        except ApiError as exc:
            return f"{exc.status_code} {exc.code}: {exc}"
        except Exception as exc:  # whatever it is, it is no answer, and the client goes on
            return f"{type(exc).__name__}: {exc}"


@contextmanager
def clients(
    url: str, picture: bytes, count: int, judge: Judge | None = None, model: str | None = None
) -> Iterator[Clients]:
    """So many for the length of a block, which begins when each of them has had its first answers.

    ``judge`` says whether an answer is right; without one, each has to have the labels of the first.
    """
    crowd = Clients(url, picture, count, judge, model)
    try:
        while len(crowd.requests) < count * _FIRST_ANSWERS:
            time.sleep(_PAUSE_S)
        yield crowd
    finally:
        crowd.close()

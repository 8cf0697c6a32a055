"""Clients that post a picture over and over, and remember what became of each request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

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


Judge = Callable[[httpx.Response], bool]


class SameLabels:
    """Says of a response whether it has the labels of this one."""

    def __init__(self, response: httpx.Response) -> None:
        self._expected = self._found(response)

    def __call__(self, response: httpx.Response) -> bool:
        return self._found(response) == self._expected

    @staticmethod
    def _found(response: httpx.Response) -> list[str]:
        return sorted(found["label"] for found in response.raise_for_status().json()["detections"])


class Clients:
    """So many, each in a thread, on a connection that it keeps."""

    def __init__(self, url: str, picture: bytes, count: int, judge: Judge | None) -> None:
        self.requests: list[Request] = []
        self._url = url
        self._picture = picture
        self._judge = judge or SameLabels(httpx.post(url, content=picture, timeout=_TIMEOUT_S, trust_env=False))
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
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as http:
            while not self._stop.wait(_PAUSE_S):
                begun_s = time.monotonic()
                problem = self._ask(http)
                self.requests.append(Request(begun_s, time.monotonic(), problem))

    def _ask(self, http: httpx.Client) -> str:
        try:
            response = http.post(self._url, content=self._picture)
            if response.status_code != 200:
                return f"{response.status_code} {response.text[:200]}"
            return "" if self._judge(response) else f"another answer: {response.text[:200]}"
        except Exception as exc:  # whatever it is, it is no answer, and the client goes on
            return f"{type(exc).__name__}: {exc}"


@contextmanager
def clients(url: str, picture: bytes, count: int, judge: Judge | None = None, query: str = "") -> Iterator[Clients]:
    """So many for the length of a block, which begins when each of them has had its first answers.

    ``judge`` says whether an answer is right; without one, each has to have the labels of the first.
    """
    crowd = Clients(f"{url}/detect{query}", picture, count, judge)
    try:
        while len(crowd.requests) < count * _FIRST_ANSWERS:
            time.sleep(_PAUSE_S)
        yield crowd
    finally:
        crowd.close()

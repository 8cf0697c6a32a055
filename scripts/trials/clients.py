"""Clients that post a picture over and over, and remember what became of each request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

_TIMEOUT_S = 90.0  # above the server's deadline
_PAUSE_S = 0.1  # a steady load, not all that the server takes
_FIRST_ANSWERS = 3  # of each client, before anything is broken


@dataclass(frozen=True)
class Request:
    """One of them, on the monotonic clock."""

    begun_s: float
    ended_s: float
    problem: str = ""  # what it got in place of the right answer


class Clients:
    """So many, each in a thread, on a connection that it keeps."""

    def __init__(self, url: str, picture: bytes, count: int) -> None:
        self.requests: list[Request] = []
        self._url = url
        self._picture = picture
        self._expected = self._found(httpx.post(f"{url}/detect", content=picture, timeout=_TIMEOUT_S, trust_env=False))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def failures(self, since_s: float, killed_s: float) -> tuple[list[str], list[str]]:
        """What failed of the requests that ended after a moment: those begun before another one, and those after it."""
        failed = [request for request in list(self.requests) if request.problem and request.ended_s >= since_s]
        cut = [request.problem for request in failed if request.begun_s < killed_s]
        return cut, [request.problem for request in failed if request.begun_s >= killed_s]

    def slowest_s(self, since_s: float) -> float:
        """The longest that a request took of those that ended after a moment."""
        return max((one.ended_s - one.begun_s for one in list(self.requests) if one.ended_s >= since_s), default=0.0)

    def close(self) -> None:
        """When the requests under way are answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT_S, trust_env=False) as http:
            while not self._stop.wait(_PAUSE_S):
                begun_s = time.monotonic()
                problem = self._ask(http)
                self.requests.append(Request(begun_s, time.monotonic(), problem))

    def _ask(self, http: httpx.Client) -> str:
        try:
            response = http.post("/detect", content=self._picture)
        except httpx.TransportError as exc:
            return f"{type(exc).__name__}: {exc}"
        if response.status_code != 200:
            return f"{response.status_code} {response.text[:200]}"
        return "" if self._found(response) == self._expected else f"another answer: {response.text[:200]}"

    @staticmethod
    def _found(response: httpx.Response) -> list[str]:
        return sorted(found["label"] for found in response.raise_for_status().json()["detections"])


@contextmanager
def clients(url: str, picture: bytes, count: int) -> Iterator[Clients]:
    """So many for the length of a block, which begins when each of them has had its first answers."""
    crowd = Clients(url, picture, count)
    try:
        while len(crowd.requests) < count * _FIRST_ANSWERS:
            time.sleep(_PAUSE_S)
        yield crowd
    finally:
        crowd.close()

"""Download a large file over HTTPS, through the guarded HTTP client, from hosts that the caller lists.

A download continues where it stopped after a broken connection, and after the end of its process.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

import httpx

from serve_app.errors import InvalidUrl
from serve_app.network.address_guard import AddressGuard
from serve_app.network.http import REDIRECTS, GuardedHttp, NoAnswer, Reply, parse_http_url
from serve_app.network.proxies import Proxy, proxy_for

_TIMEOUT_S = 30.0  # the longest time without a byte
_TOTAL_TIMEOUT_S = 3600.0  # enough for 512 MB at 1.2 Mbit/s
_RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # by the number of attempts in a row that hardly got any further
_MIN_PROGRESS_BYTES = 1 << 16  # an attempt that gets less than this further counts as a failure
_MAX_RETRY_AFTER_S = 120  # servers that ask for a longer pause are not asked a second time
_TEMPORARY = {429, 502, 503, 504}  # HTTP statuses of servers that are overloaded or restarting
_MAX_REDIRECTS = 5
_HEADERS = {"User-Agent": "sightline", "Accept": "application/octet-stream", "Accept-Encoding": "identity"}
_pause = asyncio.sleep  # a name of its own, which tests replace
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")  # Python refuses to read thousands of digits
# An ETag that identifies the bytes, and that we can send back. A weak ETag, W/"…", does not identify them.
_ETAG = re.compile(r'"[!#-~]{1,200}"')


class DownloadFailed(Exception):
    """The file cannot be downloaded. The text gives the reason, without the url."""


class Download:
    """The download of one file to a path. A second file beside it holds the ETag of an incomplete download.

    The download is continued only if the server confirms that it still has the version with this ETag.
    """

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        hosts: Collection[str],
        max_bytes: int,
        guard: AddressGuard,
        report: Callable[[int, int], None],
    ) -> None:
        """Prepare a download.

        ``hosts``: the only hosts to which the url and its redirects may lead, each with its port unless that is 443.
        ``report`` is called with the bytes received so far and the size of the file in bytes.
        """
        self._url = parse_http_url(url)
        self._path = path
        self._etag_path = path.with_name(f"{path.name}.etag")
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._report = report
        self._guard = guard
        self._furthest_bytes = 0  # the most bytes of the file that any attempt has reached
        self._retry_after_s = 0.0  # how long the last answer asks us to wait
        self._has_answered = False  # whether any attempt has had an answer other than a redirect

    async def run(self) -> None:
        """Download the file, and return when it is complete and on the disk.

        Retry after a broken connection, and give up when several attempts in a row hardly get any further, or after an
        hour. Raise DownloadFailed when the file cannot be downloaded, and OSError when it cannot be written.
        """
        try:
            async with asyncio.timeout(_TOTAL_TIMEOUT_S) as limit:
                await self._run()
        except TimeoutError as exc:
            if not limit.expired():  # an error of the disk
                raise
            raise DownloadFailed(f"it takes longer than {_TOTAL_TIMEOUT_S / 60:g} min") from exc

    async def _run(self) -> None:
        failures = 0
        while True:
            before_bytes = self._furthest_bytes
            try:
                return await self._attempt()
            except NoAnswer as exc:
                failures = 0 if self._furthest_bytes - before_bytes >= _MIN_PROGRESS_BYTES else failures + 1
                # If no answer has ever arrived, this machine is probably offline, and retries would only take time.
                if not self._has_answered or failures == len(_RETRY_DELAYS_S):
                    raise DownloadFailed(str(exc)) from exc
            await _pause(max(_RETRY_DELAYS_S[failures], self._retry_after_s))

    def discard(self) -> None:
        """Delete everything that has been downloaded."""
        self._etag_path.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    async def _attempt(self) -> None:
        start_bytes, etag = self._resume_point()
        self._retry_after_s = 0.0
        continued = {"Range": f"bytes={start_bytes}-", "If-Range": etag} if start_bytes else {}
        async with self._get(_HEADERS | continued) as reply:
            if reply.status in _TEMPORARY:
                self._retry_after_s = _retry_after_s(reply.header("retry-after"))
            size_bytes = _size_in(reply, start_bytes, etag)
            if size_bytes is not None:
                return await self._receive(reply, start_bytes if reply.status == 206 else 0, size_bytes)
        self.discard()
        return await self._attempt()

    async def _receive(self, reply: Reply, received_bytes: int, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise DownloadFailed(f"the file has {size_bytes} bytes, but at most {self._max_bytes} are accepted")
        if not received_bytes:
            self._start_over(reply.header("etag"))
        with _opened_without_link(self._path) as file:
            self._report(received_bytes, size_bytes)
            async with aclosing(reply.chunks()) as chunks:
                async for chunk in chunks:
                    received_bytes += len(chunk)
                    if received_bytes > size_bytes:
                        raise DownloadFailed("the server sends more bytes than it has announced")
                    file.write(chunk)
                    self._furthest_bytes = max(self._furthest_bytes, received_bytes)
                    self._report(received_bytes, size_bytes)
            if received_bytes < size_bytes:
                raise NoAnswer("the server sends fewer bytes than it has announced")
            file.flush()
            os.fsync(file.fileno())
        self._etag_path.unlink(missing_ok=True)

    def _resume_point(self) -> tuple[int, str]:
        """Return the number of bytes that need not be downloaded again, and the ETag of the version they belong to."""
        if self._path.is_symlink() or self._etag_path.is_symlink():
            return 0, ""  # we never create links, and a link could lead to a file of another program
        try:
            etag = self._etag_path.read_text("latin-1")
            return (self._path.stat().st_size, etag) if _ETAG.fullmatch(etag) else (0, "")
        except FileNotFoundError:
            return 0, ""

    def _start_over(self, etag: str) -> None:
        # If this process is killed between any two of these steps, no bytes are attributed to a wrong ETag.
        self.discard()
        self._path.touch(exist_ok=False)
        if _ETAG.fullmatch(etag):
            with self._etag_path.open("x", encoding="latin-1") as file:
                file.write(etag)

    @asynccontextmanager
    async def _get(self, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        """Send a request, follow redirects, and yield the answer before its body is read."""
        url = self._url
        for _ in range(1 + _MAX_REDIRECTS):
            self._check(url)
            proxy = _proxy_for(url)
            http = GuardedHttp(self._guard, timeout_s=_TIMEOUT_S, proxy=proxy)
            try:
                async with http.stream("GET", url, headers) as reply:
                    if reply.status not in REDIRECTS:
                        self._has_answered = True
                        yield reply
                        return
                    url = _target(url, reply.header("location"))
            except InvalidUrl as exc:
                raise DownloadFailed(f"{url.host} has an address that is not public") from exc
            except NoAnswer as exc:
                through = f"; the environment names the proxy {proxy.name}" if proxy else ""
                raise NoAnswer(f"{url.host}: {exc}{through}") from exc
            finally:
                await http.close()
        raise DownloadFailed(f"it is redirected more than {_MAX_REDIRECTS} times")

    def _check(self, url: httpx.URL) -> None:
        if url.scheme != "https":
            raise DownloadFailed(f"it leads to {url.scheme}://, which is not encrypted")
        if url.userinfo or url.netloc.decode() not in self._hosts:
            raise DownloadFailed(f"it is redirected to {url.host}, which is not one of the publisher's hosts")


def _size_in(reply: Reply, start_bytes: int, etag: str) -> int | None:
    """Return the size of the whole file. Return None if the answer does not fit the bytes that we already have.

    Raise NoAnswer when the server cannot answer now, and DownloadFailed when the answer is not a file.
    """
    if reply.status in _TEMPORARY:
        raise NoAnswer(f"the server answered with status {reply.status}")
    if start_bytes and reply.status == 416:
        return None
    if reply.status != 200 and not (start_bytes and reply.status == 206):
        raise DownloadFailed(f"the server answered with status {reply.status}")
    if reply.header("content-encoding") not in {"", "identity"}:
        raise DownloadFailed("the server compresses its answer, although it was asked not to")
    if reply.status == 200:
        size = reply.header("content-length")
        if not size.isdecimal():
            raise DownloadFailed("the server does not say how large the file is")
        return int(size)
    found = _CONTENT_RANGE.fullmatch(reply.header("content-range"))
    if found is None or reply.header("etag") not in {"", etag}:
        return None
    first, last, size_bytes = map(int, found.groups())
    return size_bytes if (first, last) == (start_bytes, size_bytes - 1) else None


def _retry_after_s(header: str) -> float:
    """Return the seconds to wait that a server's Retry-After header asks for, or 0 if there is no valid header.

    Raise DownloadFailed when the server asks for more than two minutes.
    """
    try:
        wait_s = float(header) if header.isdecimal() else parsedate_to_datetime(header).timestamp() - time.time()
    except (OverflowError, ValueError):
        return 0.0
    if wait_s > _MAX_RETRY_AFTER_S:
        raise DownloadFailed("the server is overloaded, and asks for no request within the next 2 min")
    return max(wait_s, 0.0)


def _proxy_for(url: httpx.URL) -> Proxy | None:
    """Return the environment's proxy for a url. A proxy resolves the host, so this machine need not resolve it."""
    try:
        return proxy_for(url.scheme, url.host, url.port or 443, [])
    except ValueError as exc:
        raise DownloadFailed(f"the environment's proxy is not an http:// address; correct {exc}") from exc


def _opened_without_link(path: Path) -> BinaryIO:
    """Open an existing file to append to it. Raise OSError if the path is a symbolic link."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "ab")


def _target(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return parse_http_url(str(url.join(location)))
    except (httpx.InvalidURL, InvalidUrl, ValueError) as exc:
        raise DownloadFailed("it is redirected to an invalid url") from exc

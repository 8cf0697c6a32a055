"""HTTP to the addresses that clients name: every connection is made through a guard.

The guard sits where connections are made, so that nothing leads past it: no redirect, no name that stands for another
machine a moment later. TLS is verified for the name. What HTTP clients do by themselves, this one leaves: redirects,
proxies of the environment's, cookies, decompression.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpcore
import httpx

from serve_app.errors import InvalidUrl, Limit, TooLarge
from serve_app.network.address_guard import AddressGuard

_ADDRESSES_TRIED = 4  # of a host's
_KEPT_S = 5.0  # a connection that may be used again
_MIN_CHUNK_BYTES, _SMALL_CHUNKS = 256, 100  # on average, once so many have come: each costs the same, however small
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|[0-9a-f:.]*:[0-9a-f:.]*")  # a name, or an address in digits

logging.getLogger("httpcore").setLevel(logging.INFO)  # at DEBUG it writes headers, which may hold secrets


class NoAnswer(Exception):
    """The server cannot be reached, or its answer is none. The text says why, without the url."""


class NoSuchHost(NoAnswer):
    """The server's name stands for no address."""


def parse_http_url(text: str) -> httpx.URL:
    """Raises InvalidUrl for what is no plain address of HTTP."""
    try:
        url = httpx.URL(text)
        is_valid = url.scheme in {"http", "https"} and bool(_HOST.fullmatch(url.raw_host.decode()))
        is_valid = is_valid and (url.port is None or 0 < url.port < 65536)
    except (httpx.InvalidURL, ValueError):
        is_valid = False
    if not is_valid:
        raise InvalidUrl("the url is no valid http:// or https:// address")
    return url


class Dribbles(NoAnswer):
    """The server sends its answer in pieces so small that to read them costs more than they are worth."""


class Reply:
    """A server's answer, as long as the connection lasts."""

    def __init__(self, response: httpcore.Response, timeout_s: float) -> None:
        self.status = response.status
        self._response = response
        self._timeout_s = timeout_s

    def header(self, name: str) -> str:
        """Its value; of several, all of them; empty where there is none."""
        wanted = name.lower().encode()
        return ", ".join(value.decode("latin-1") for key, value in self._response.headers if key.lower() == wanted)

    async def read(self, max_bytes: int, limit: Limit = "") -> bytes:
        """Return the body, as it was sent. Raises NoAnswer, and TooLarge, which names ``limit``, before more than
        ``max_bytes`` are read."""
        chunks: list[bytes] = []
        left = max_bytes - int(self.header("content-length") or 0)
        with _explained(self._timeout_s):
            if left >= 0:
                left = max_bytes
                async for chunk in self._response.aiter_stream():
                    left -= len(chunk)
                    if left < 0:
                        break
                    chunks.append(chunk)
                    if max_bytes - left < _MIN_CHUNK_BYTES * (len(chunks) - _SMALL_CHUNKS):
                        raise Dribbles("its answer comes in pieces that are too small")
        if left < 0:
            prefix = f"{limit}: " if limit else ""
            raise TooLarge(f"{prefix}the server's answer is larger than {max_bytes / 2**20:g} MiB", limit=limit)
        return b"".join(chunks)


class GuardedHttp:
    """A client for one event loop. Its bounds: ``timeout_s`` for each step, and 100 KiB of headers."""

    def __init__(self, guard: AddressGuard, *, timeout_s: float, kept: int = 0) -> None:
        """``kept`` connections stay open for the next request to the same server."""
        self._timeout_s = timeout_s
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),  # the system's authorities
            max_connections=None,
            max_keepalive_connections=kept,
            keepalive_expiry=_KEPT_S,
            network_backend=_GuardedNetwork(guard),
        )

    @asynccontextmanager
    async def stream(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[Reply]:
        """The server's answer, whatever it is; its body is still to come. Credentials in the url go as Basic ones.

        Raises InvalidUrl, NoAnswer.
        """
        address = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        sent = {"Host": url.netloc.decode(), **headers}
        if url.userinfo:
            credentials = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
            sent["Authorization"] = f"Basic {credentials}"
        timeout = dict.fromkeys(("connect", "read", "write"), self._timeout_s)
        with _explained(self._timeout_s):
            async with self._pool.stream(
                method, address, headers=list(sent.items()), content=content, extensions={"timeout": timeout}
            ) as response:
                yield Reply(response, self._timeout_s)

    async def close(self) -> None:
        """The connections."""
        await self._pool.aclose()


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that the guard has checked."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """To the first of the host's addresses that takes the connection, all in ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                addresses = (await self._guard.resolve(host, port))[:_ADDRESSES_TRIED]
                share_s = timeout and timeout / len(addresses)
                for address in addresses[:-1]:
                    try:
                        return await self._network.connect_tcp(address, port, share_s, local_address, socket_options)
                    except (httpcore.ConnectError, httpcore.ConnectTimeout):
                        continue
                return await self._network.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout from exc

    async def sleep(self, seconds: float) -> None:
        """See ``httpcore.AsyncNetworkBackend``."""
        await asyncio.sleep(seconds)


@contextmanager
def _explained(timeout_s: float) -> Iterator[None]:
    """httpcore's errors as ours."""
    try:
        yield
    except httpcore.TimeoutException as exc:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from exc
    except socket.gaierror as exc:
        raise NoSuchHost(f"it cannot be reached: {exc.strerror}") from exc
    except httpcore.ConnectError as exc:
        raise NoAnswer(f"it cannot be reached: {exc}") from exc
    except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
        raise NoAnswer(f"the connection broke: {type(exc).__name__}") from exc

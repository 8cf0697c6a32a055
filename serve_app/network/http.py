"""An HTTP client for urls from clients' requests. It makes every connection through a guard.

The guard checks each connection, so neither a redirect nor a name that changes its address can bypass it. TLS
certificates are verified against the host name. Unlike other HTTP clients, this one does not follow redirects, look for
proxies in the environment, store cookies or decompress bodies.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpcore
import httpx

from serve_app.errors import InvalidUrl, Limit, TooLarge
from serve_app.network.address_guard import AddressGuard
from serve_app.network.proxies import Proxy

REDIRECTS = {301, 302, 303, 307, 308}

_MAX_ADDRESSES = 4  # how many addresses of a host are tried
_KEEPALIVE_S = 5.0
_MIN_CHUNK_BYTES = 256  # minimum average size of a chunk; reading a chunk costs the same at any size
_SMALL_CHUNKS = 100  # this many chunks of an answer are exempt from the minimum
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|[0-9a-f:.]*:[0-9a-f:.]*")  # a name or a numeric address

logging.getLogger("httpcore").setLevel(logging.INFO)  # at DEBUG, httpcore logs headers, which may contain secrets


class NoAnswer(Exception):
    """The server cannot be reached, or does not answer with valid HTTP. The text gives the reason, without the url."""


class NoSuchHost(NoAnswer):
    """The server's name does not resolve to an address."""


def parse_http_url(text: str) -> httpx.URL:
    """Parse an http or https url. Raise InvalidUrl when the url is not valid."""
    try:
        url = httpx.URL(text)
        is_valid = url.scheme in {"http", "https"} and bool(_HOST.fullmatch(url.raw_host.decode()))
        is_valid = is_valid and (url.port is None or 0 < url.port < 65536)
        _ = url.host  # decodes an international name, or raises an exception
    except (httpx.InvalidURL, ValueError):
        is_valid = False
    if not is_valid:
        raise InvalidUrl("the url is not a valid http:// or https:// address")
    return url


class TooManySmallChunks(NoAnswer):
    """The server sends its answer in chunks so small that reading them costs too much."""


class Reply:
    """A server's answer, which can be read while its connection is open."""

    def __init__(self, response: httpcore.Response, timeout_s: float) -> None:
        self.status = response.status
        self._response = response
        self._timeout_s = timeout_s

    def header(self, name: str) -> str:
        """Return the value of a header: all values joined by commas, or "" if there is none."""
        wanted = name.lower().encode()
        return ", ".join(value.decode("latin-1") for key, value in self._response.headers if key.lower() == wanted)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in pieces, as they arrive. Raise NoAnswer when the connection fails."""
        with _translated_errors(self._timeout_s):
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def read(self, max_bytes: int, limit: Limit = "") -> bytes:
        """Return the body as it was sent.

        Raise TooLarge, which names ``limit``, before more than ``max_bytes`` are read. Raise NoAnswer when the
        connection fails.
        """
        chunks: list[bytes] = []
        left = max_bytes - int(self.header("content-length") or 0)
        with _translated_errors(self._timeout_s):
            if left >= 0:
                left = max_bytes
                async for chunk in self._response.aiter_stream():
                    left -= len(chunk)
                    if left < 0:
                        break
                    chunks.append(chunk)
                    if max_bytes - left < _MIN_CHUNK_BYTES * (len(chunks) - _SMALL_CHUNKS):
                        raise TooManySmallChunks("the server's answer comes in chunks that are too small")
        if left < 0:
            prefix = f"{limit}: " if limit else ""
            raise TooLarge(
                f"{prefix}the server's answer is larger than {max_bytes / 2**20:g} MiB, which is the limit", limit=limit
            )
        return b"".join(chunks)


class GuardedHttp:
    """An HTTP client for one event loop.

    Connecting, each read and each write may take up to ``timeout_s``. The headers of an answer may have up to 100 KiB.
    """

    def __init__(self, guard: AddressGuard, *, timeout_s: float, kept: int = 0, proxy: Proxy | None = None) -> None:
        """Create a client that keeps up to ``kept`` idle connections open for further requests.

        With a ``proxy``, every connection is made by the proxy, which resolves the names itself. The guard then checks
        nothing, so pass a proxy only with urls of hosts that are known to be harmless.
        """
        self._timeout_s = timeout_s
        tls = ssl.create_default_context()  # trusts the system's certificate authorities
        options: dict[str, Any] = {"max_connections": None, "max_keepalive_connections": kept}
        options |= {"keepalive_expiry": _KEEPALIVE_S, "ssl_context": tls}
        if proxy is None:
            self._pool = httpcore.AsyncConnectionPool(**options, network_backend=_GuardedNetwork(guard))
        else:
            url = httpcore.URL(scheme="http", host=proxy.host, port=proxy.port, target="/")
            self._pool = httpcore.AsyncHTTPProxy(url, proxy_headers=list(proxy.headers.items()), **options)

    @asynccontextmanager
    async def stream(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[Reply]:
        """Send a request and yield the server's answer, of any status, before its body is read.

        Credentials in the url are sent with Basic authentication. Raise InvalidUrl when the guard refuses the address,
        and NoAnswer when there is no answer.
        """
        address = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        sent = {"Host": url.netloc.decode(), **headers}
        if url.userinfo:
            credentials = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
            sent["Authorization"] = f"Basic {credentials}"
        timeout = dict.fromkeys(("connect", "read", "write"), self._timeout_s)
        with _translated_errors(self._timeout_s):
            async with self._pool.stream(
                method, address, headers=list(sent.items()), content=content, extensions={"timeout": timeout}
            ) as response:
                yield Reply(response, self._timeout_s)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.aclose()


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Network backend that connects only to addresses that the guard has checked."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Try the host's addresses until one accepts a connection, within ``timeout`` seconds in total."""
        try:
            async with asyncio.timeout(timeout):
                addresses = (await self._guard.resolve(host, port))[:_MAX_ADDRESSES]
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
        """Sleep for some seconds: see ``httpcore.AsyncNetworkBackend``."""
        await asyncio.sleep(seconds)


@contextmanager
def _translated_errors(timeout_s: float) -> Iterator[None]:
    """Turn httpcore's errors inside the ``with`` block into NoAnswer."""
    try:
        yield
    except httpcore.TimeoutException as exc:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from exc
    except socket.gaierror as exc:
        raise NoSuchHost(f"the server cannot be reached: {exc.strerror}") from exc
    except httpcore.ConnectError as exc:
        raise NoAnswer(f"the server cannot be reached: {exc}") from exc
    except httpcore.ProxyError as exc:
        raise NoAnswer(f"the proxy answered {exc}") from exc
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as exc:
        raise NoAnswer(f"the connection to the server broke: {type(exc).__name__}") from exc

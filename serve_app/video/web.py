"""The HTTP client for sources such as cameras and media servers.

We do not use FFmpeg's own HTTP client. It follows playlists and redirects to any address, uses the environment's proxy
even for cameras on the LAN, and does not report why a request failed. This client is based on Python's ``http.client``,
because other clients refuse the nonstandard headers that some cameras send. It blocks, so run it in its own thread.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse

import httpx

from serve_app.errors import InvalidUrl, ServeAppError, SourceError, SourceGone, SourceStalled
from serve_app.network.address_guard import AddressGuard, addresses_of
from serve_app.network.http import parse_http_url
from serve_app.network.proxies import Proxy, TunnelRefused, proxy_for, tunnel
from serve_app.video.failures import explain_tls, refusal, tls_for
from serve_app.video.source import Source

_TIMEOUT_S = 10.0  # for each network operation, and also for each frame
_MAX_REDIRECTS = 5
_MAX_COOKIES = 50
_MAX_ADDRESSES = 4  # how many addresses of a host we try
_REDIRECTS = {301, 302, 303, 307, 308}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS = {
    "User-Agent": "sightline",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",  # a cache would repeat the first snapshot
    "Connection": "close",
}


class WebClient:
    """Sends requests to a source's host. Playlists and redirects may refer to other hosts if ``guard`` allows them.

    The source's own host may have any address, because the user chose it. We resolve its name only once, so that the
    name cannot point to another address later.
    """

    def __init__(self, source: Source, guard: AddressGuard) -> None:
        """Prepare the client. Raise SourceError if the source's URL is not valid."""
        self._source = source
        self._guard = guard
        self._url = self._parse_url(source.uri)
        self._own_addresses: list[str] | None = None  # None until resolved
        self._proxy: Proxy | None = None  # used for the source's own host only
        self._cookies = httpx.Cookies()  # some media servers send segments only to clients that return their cookies
        self._auth: httpx.Auth | None = None  # set at the first request that may need credentials
        self._expires_at_s = 0.0
        self.reset_timeout()

    def reset_timeout(self) -> None:
        """Restart the timeout for one frame.

        A timeout per read is not enough, because a source may send its bytes one by one.
        """
        self._expires_at_s = time.monotonic() + _TIMEOUT_S

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request, and return the response before its body is read. Follow redirects to the same URL scheme.

        Raise SourceError or one of its subclasses SourceDenied, SourceUntrusted, SourceGone and SourceStalled if the
        request fails.
        """
        self.reset_timeout()
        target = self._parse_url(url)
        for _ in range(1 + _MAX_REDIRECTS):
            connection, response = self._request(target, headers or {})
            if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                connection.close()
                response.close()
                target = self._parse_url(self._join_url(target, location))
                continue
            reply = Reply(self, connection, response, str(target.copy_with(userinfo=b"")))
            if response.status in {200, 206}:
                if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
                    reply.close()
                    raise SourceError(f"{self._source.name} compresses its response, which is not supported")
                return reply
            reply.close()
            through = f" through the proxy {self._proxy.name}" if self._proxy else ""
            raise refusal(self._source, response.status, through)
        raise SourceError(f"{self._source.name} redirects more than {_MAX_REDIRECTS} times")

    def check_timeout(self) -> None:
        """Raise SourceStalled if the timeout for the current frame has expired."""
        if time.monotonic() > self._expires_at_s:
            raise SourceStalled(f"{self._source.name} is connected but sends no video")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Translate the errors of a connection into SourceErrors."""
        try:
            yield
        except TimeoutError:
            raise SourceStalled(f"{self._source.name} is connected but sends no video") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise self._to_source_error(exc) from None

    def _parse_url(self, text: str) -> httpx.URL:
        try:
            url = parse_http_url(text)
        except InvalidUrl:
            raise SourceError(f"{self._source.name} is an invalid http:// or https:// URL, or leads to one") from None
        if url.scheme != self._source.kind:
            kind = self._source.kind
            raise SourceError(
                f"{self._source.name} leads to {url.scheme}://, but an {kind}:// source may lead only to {kind}:// "
                "URLs; set source.uri to the URL that it leads to"
            )
        return url

    def _join_url(self, url: httpx.URL, location: str) -> str:
        try:
            return str(url.join(location))
        except (httpx.InvalidURL, ValueError):
            return ""

    def _request(self, url: httpx.URL, headers: Mapping[str, str]) -> tuple[HTTPConnection, HTTPResponse]:
        """Send a request. The credentials in the source's URL are used only for that URL's host and port."""
        if not self._url.userinfo or _origin(url) != _origin(self._url):
            return self._send(url, headers)
        if self._auth is None:
            # We try digest authentication first, because it sends no credentials before the server's challenge.
            self._auth = httpx.DigestAuth(self._url.username, self._url.password)
        connection, response = self._request_with_auth(self._auth, url, headers)
        challenges = response.headers.get_all("WWW-Authenticate") or []
        is_digest = any(challenge.lower().startswith("digest") for challenge in challenges)
        if response.status == 401 and isinstance(self._auth, httpx.DigestAuth) and not is_digest:
            connection.close()
            self._auth = httpx.BasicAuth(self._url.username, self._url.password)
            return self._request_with_auth(self._auth, url, headers)
        return connection, response

    def _request_with_auth(
        self, auth: httpx.Auth, url: httpx.URL, headers: Mapping[str, str]
    ) -> tuple[HTTPConnection, HTTPResponse]:
        request = httpx.Request("GET", url.copy_with(userinfo=b""))
        flow = auth.auth_flow(request)
        try:
            request = next(flow)
            while True:
                sent = {key: request.headers[key] for key in ("Authorization",) if key in request.headers}
                connection, response = self._send(url, {**headers, **sent})
                try:
                    request = flow.send(_as_httpx(response, request))
                except StopIteration:
                    return connection, response
                connection.close()
        except (httpx.HTTPError, KeyError, NotImplementedError):  # an unsupported challenge
            raise refusal(self._source, 401) from None

    def _send(self, url: httpx.URL, headers: Mapping[str, str]) -> tuple[HTTPConnection, HTTPResponse]:
        host, port = _origin(url)
        is_own = host == self._url.host
        sock = self._connect_own(host, port) if is_own else self._connect_other(host, port)
        proxy = self._proxy if is_own else None
        connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
        asked = httpx.Request("GET", url.copy_with(userinfo=b""))
        self._cookies.set_cookie_header(asked)
        try:
            with self.translated_errors():
                if url.scheme == "https":
                    sock = self._wrap_tls(sock, host, port, proxy)
                target = url.raw_path.decode()
                extra = {"Cookie": asked.headers["Cookie"]} if "Cookie" in asked.headers else {}
                if proxy is not None and url.scheme == "http":
                    target, extra = f"http://{url.netloc.decode()}{target}", extra | proxy.headers
                connection.sock = sock
                connection.request("GET", target, headers={"Host": url.netloc.decode(), **_HEADERS, **extra, **headers})
                response = connection.getresponse()
        except BaseException:
            sock.close()
            raise
        self._cookies.extract_cookies(_as_httpx(response, asked))
        if len(self._cookies.jar) > _MAX_COOKIES:
            self._cookies.clear()
        return connection, response

    def _wrap_tls(self, sock: socket.socket, host: str, port: int, proxy: Proxy | None) -> socket.socket:
        if proxy is not None:
            try:
                tunnel(sock, proxy, host, port)
            except TunnelRefused as exc:
                problem = f"answered {exc.status}" if exc.status else "does not speak HTTP"
                raise SourceGone(f"{self._source.name}: {_describe_proxy(proxy)} {problem}") from None
        return tls_for(self._source).wrap_socket(sock, server_hostname=host)

    def _connect_own(self, host: str, port: int) -> socket.socket:
        """Connect to the source's own host, or to the proxy for it."""
        if self._own_addresses is None:
            try:
                self._own_addresses = addresses_of(host, port)
            except (socket.gaierror, InvalidUrl):
                self._own_addresses = []  # perhaps only the proxy can resolve the name
            try:
                self._proxy = proxy_for(self._source.kind, host, port, self._own_addresses)
            except ValueError:
                raise SourceError(
                    f"{self._source.name}: the environment's proxy is of an unsupported kind; add the host to no_proxy "
                    "to connect directly"
                ) from None
        if self._proxy is not None:
            try:
                return _open_socket([self._proxy.host], self._proxy.port)
            except OSError as exc:
                raise SourceGone(f"{self._source.name}: {_describe_proxy(self._proxy)}: {_error_text(exc)}") from None
        if not self._own_addresses:
            self._own_addresses = None  # so that the next attempt resolves the name again
            raise SourceGone(f"{self._source.name}: the host name cannot be resolved")
        return self._connect(self._own_addresses, port)

    def _connect_other(self, host: str, port: int) -> socket.socket:
        try:
            addresses = self._guard.look_up(host, port)
        except socket.gaierror:
            addresses = []
        except ServeAppError:
            addresses = []  # the same error as for an unknown name, so that clients cannot find out which names exist
        if not addresses:
            raise SourceError(
                f"{self._source.name} leads to another server, whose address is not allowed; add it to "
                "SERVE_APP_ALLOWED_NETWORKS"
            )
        return self._connect(addresses, port)

    def _connect(self, addresses: list[str], port: int) -> socket.socket:
        try:
            return _open_socket(addresses, port)
        except TimeoutError:
            raise SourceGone(f"{self._source.name} does not answer") from None
        except OSError as exc:
            raise SourceGone(f"{self._source.name}: {_error_text(exc)}") from None

    def _to_source_error(self, exc: OSError | HTTPException | ValueError) -> SourceError:
        name = self._source.name
        if isinstance(exc, ssl.SSLError):
            return explain_tls(self._source, exc)
        if isinstance(exc, ConnectionError):  # also raised by http.client if the server hangs up
            return SourceGone(f"{name}: {_error_text(exc)}")
        if isinstance(exc, HTTPException | ValueError):
            return SourceError(f"{name} does not answer in HTTP; check the port and scheme")
        return SourceGone(f"{name}: {_error_text(exc)}")


class Reply:
    """A server's response, whose body is read as it arrives."""

    def __init__(self, client: WebClient, connection: HTTPConnection, response: HTTPResponse, url: str) -> None:
        self._client = client
        self._connection = connection
        self._response = response
        self.url = url  # after all redirects
        self.status = response.status
        self.size: int | None = response.length  # bytes; None if the server does not declare it
        self._left = response.length
        self._read_already = b""

    def header(self, name: str) -> str:
        """Return a header's value, or an empty string if it is missing."""
        return str(self._response.headers.get(name, ""))

    @property
    def content_type(self) -> str:
        """The content type in lower case, without parameters."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    def peek(self, size: int) -> bytes:
        """Return at least the first ``size`` bytes without consuming them. Return fewer if the body is shorter."""
        while len(self._read_already) < size and (data := self._fetch(1 << 16)):
            self._read_already += data
        return self._read_already

    def read(self, size: int = 1 << 16, /) -> bytes:
        """Return at most ``size`` of the next bytes, or ``b""`` at the end.

        Raise SourceGone if the connection fails, and SourceStalled if the server sends nothing.
        """
        if self._read_already:
            data, self._read_already = self._read_already[:size], self._read_already[size:]
            return data
        return self._fetch(size)

    def read_all(self, max_bytes: int) -> bytes | None:
        """Return the rest of the body, or None if it is larger than ``max_bytes``."""
        data = bytearray()
        while chunk := self.read():
            data += chunk
            if len(data) > max_bytes:
                return None
        return bytes(data)

    def close(self) -> None:
        """Close the response and its connection."""
        self._response.close()
        self._connection.close()

    def _fetch(self, size: int) -> bytes:
        self._client.check_timeout()
        with self._client.translated_errors():
            data = self._response.read1(size)
            if not data and self._left:
                raise ConnectionResetError
        if self._left is not None:
            self._left -= len(data)
        return data


def _origin(url: httpx.URL) -> tuple[str, int]:
    return url.host, url.port or _DEFAULT_PORTS[url.scheme]


def _as_httpx(response: HTTPResponse, request: httpx.Request) -> httpx.Response:
    """Return an httpx response with only the headers that we need. httpx could refuse other headers as malformed."""
    headers = [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers.items()
        if name.lower() in {"www-authenticate", "set-cookie"}
    ]
    return httpx.Response(response.status, headers=headers, request=request)


def _open_socket(hosts: list[str], port: int) -> socket.socket:
    """Connect to the first host that accepts a connection. Raise the OSError of the last host if all fail."""
    hosts = hosts[:_MAX_ADDRESSES]
    for host in hosts[:-1]:
        try:
            return _set_timeout(socket.create_connection((host, port), _TIMEOUT_S / len(hosts)))
        except OSError:
            continue
    return _set_timeout(socket.create_connection((hosts[-1], port), _TIMEOUT_S / len(hosts)))


def _set_timeout(sock: socket.socket) -> socket.socket:
    sock.settimeout(_TIMEOUT_S)
    return sock


def _describe_proxy(proxy: Proxy) -> str:
    return f"the proxy {proxy.name} from the environment (add the host to no_proxy to bypass it)"


def _error_text(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return "its host name cannot be resolved"
    return os.strerror(exc.errno) if exc.errno else "the connection was lost"

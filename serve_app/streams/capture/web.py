"""HTTP to a source: cameras, media servers, and whatever their playlists and redirects lead to.

FFmpeg's own HTTP client follows playlists and redirects to any address, sends cameras next door through the proxy that
the environment names, and says of what failed only that something did. This one blocks: it is for a thread of its own.
It is Python's, which takes the headers that cameras send; others hold them against the standard.
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
from serve_app.network.proxies import NotTunnelled, Proxy, proxy_for, tunnel
from serve_app.streams.capture.failures import explain_tls, refusal, tls_for
from serve_app.streams.capture.source import Source

_TIMEOUT_S = 10.0  # of each step, and of a picture
_MAX_REDIRECTS = 5
_MAX_COOKIES = 50
_ADDRESSES_TRIED = 4  # of a host's
_REDIRECTS = {301, 302, 303, 307, 308}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS = {
    "User-Agent": "sightline",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",  # of a snapshot, a cache would go on showing the first one
    "Connection": "close",
}


class WebClient:
    """Asks one source's server, and those that it leads to: these through ``guard``.

    The source's own host is what the client named, and where it may be, the client decides; it keeps the addresses that
    it has at first, so that its name cannot lead elsewhere later.
    """

    def __init__(self, source: Source, guard: AddressGuard) -> None:
        """Raises SourceError."""
        self._source = source
        self._guard = guard
        self._url = self._parsed(source.uri)
        self._own_addresses: list[str] | None = None  # once it was looked up
        self._proxy: Proxy | None = None  # through which the source's own host is reached
        self._cookies = httpx.Cookies()  # a media server's, without which it sends no segments
        self._auth: httpx.Auth | None = None  # once the server has asked for credentials
        self._expires_at_s = 0.0
        self.renew()

    def renew(self) -> None:
        """Wait for the next picture from now on: what comes in drops must not count as one that sends video."""
        self._expires_at_s = time.monotonic() + _TIMEOUT_S

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Return the server's answer, its body still to come. Redirects are followed within ``http`` or ``https``.

        Raises SourceError; SourceDenied, SourceUntrusted, SourceGone, SourceStalled among them.
        """
        self.renew()
        target = self._parsed(url)
        for _ in range(1 + _MAX_REDIRECTS):
            connection, response = self._ask(target, headers or {})
            if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                connection.close()
                response.close()
                target = self._parsed(self._joined(target, location))
                continue
            reply = Reply(self, connection, response, str(target.copy_with(userinfo=b"")))
            if response.status in {200, 206}:
                if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
                    reply.close()
                    raise SourceError(f"{self._source.name} compresses its answer, which it was asked not to do")
                return reply
            reply.close()
            through = f" through the proxy {self._proxy.name}" if self._proxy else ""
            raise refusal(self._source, response.status, through)
        raise SourceError(f"{self._source.name} redirects more than {_MAX_REDIRECTS} times")

    def check_patience(self) -> None:
        """Raise SourceStalled when no picture has come for too long."""
        if time.monotonic() > self._expires_at_s:
            raise SourceStalled(f"{self._source.name} is connected and sends no video")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What goes wrong with a connection, as the stream's errors."""
        try:
            yield
        except TimeoutError:
            raise SourceStalled(f"{self._source.name} is connected and sends no video") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise self._trouble(exc) from None

    def _parsed(self, text: str) -> httpx.URL:
        try:
            url = parse_http_url(text)
        except InvalidUrl:
            raise SourceError(f"{self._source.name} is, or leads to, no valid http:// or https:// address") from None
        if url.scheme != self._source.kind:
            raise SourceError(
                f"{self._source.name} leads to {url.scheme}://, which a source of {self._source.kind}:// is not "
                "followed to: name that address as the source"
            )
        return url

    def _joined(self, url: httpx.URL, location: str) -> str:
        try:
            return str(url.join(location))
        except (httpx.InvalidURL, ValueError):
            return ""

    def _ask(self, url: httpx.URL, headers: Mapping[str, str]) -> tuple[HTTPConnection, HTTPResponse]:
        """Ask with the credentials in the source's address, if the server wants them, and is the source's own."""
        if not self._url.userinfo or _origin(url) != _origin(self._url):
            return self._send(url, headers)
        if self._auth is None:
            self._auth = httpx.DigestAuth(self._url.username, self._url.password)  # sends nothing unasked
        connection, response = self._ask_by(self._auth, url, headers)
        challenges = response.headers.get_all("WWW-Authenticate") or []
        is_digest = any(challenge.lower().startswith("digest") for challenge in challenges)
        if response.status == 401 and isinstance(self._auth, httpx.DigestAuth) and not is_digest:
            connection.close()
            self._auth = httpx.BasicAuth(self._url.username, self._url.password)
            return self._ask_by(self._auth, url, headers)
        return connection, response

    def _ask_by(
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
        except (httpx.HTTPError, KeyError, NotImplementedError):  # a challenge of a kind that is not read
            raise refusal(self._source, 401) from None

    def _send(self, url: httpx.URL, headers: Mapping[str, str]) -> tuple[HTTPConnection, HTTPResponse]:
        host, port = _origin(url)
        is_own = host == self._url.host
        connected = self._dial_own(host, port) if is_own else self._dial_other(host, port)
        proxy = self._proxy if is_own else None
        connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
        asked = httpx.Request("GET", url.copy_with(userinfo=b""))
        self._cookies.set_cookie_header(asked)
        try:
            with self.explained():
                if url.scheme == "https":
                    connected = self._secured(connected, host, port, proxy)
                target = url.raw_path.decode()
                extra = {"Cookie": asked.headers["Cookie"]} if "Cookie" in asked.headers else {}
                if proxy is not None and url.scheme == "http":
                    target, extra = f"http://{url.netloc.decode()}{target}", extra | proxy.headers
                connection.sock = connected
                connection.request("GET", target, headers={"Host": url.netloc.decode(), **_HEADERS, **extra, **headers})
                response = connection.getresponse()
        except BaseException:
            connected.close()
            raise
        self._cookies.extract_cookies(_as_httpx(response, asked))
        if len(self._cookies.jar) > _MAX_COOKIES:
            self._cookies.clear()
        return connection, response

    def _secured(self, connected: socket.socket, host: str, port: int, proxy: Proxy | None) -> socket.socket:
        if proxy is not None:
            try:
                tunnel(connected, proxy, host, port)
            except NotTunnelled as exc:
                said = f"answers {exc.status}" if exc.status else "answers no HTTP"
                raise SourceGone(f"{self._source.name}: {_of_proxy(proxy)} {said}") from None
        return tls_for(self._source).wrap_socket(connected, server_hostname=host)

    def _dial_own(self, host: str, port: int) -> socket.socket:
        """To the source's own host, or to the proxy through which it is reached."""
        if self._own_addresses is None:
            try:
                self._own_addresses = addresses_of(host, port)
            except (socket.gaierror, InvalidUrl):
                self._own_addresses = []  # behind a proxy, names may be known to that alone
            try:
                self._proxy = proxy_for(self._source.kind, host, port, self._own_addresses)
            except ValueError:
                raise SourceError(
                    f"{self._source.name}: the environment names a proxy of a kind that is not used; add the host to "
                    "no_proxy to reach it directly"
                ) from None
        if self._proxy is not None:
            try:
                return _connected([self._proxy.host], self._proxy.port)
            except OSError as exc:
                raise SourceGone(f"{self._source.name}: {_of_proxy(self._proxy)}: {_words(exc)}") from None
        if not self._own_addresses:
            self._own_addresses = None  # it may have one the next time
            raise SourceGone(f"{self._source.name}: the host's name stands for no address")
        return self._dial(self._own_addresses, port)

    def _dial_other(self, host: str, port: int) -> socket.socket:
        try:
            addresses = self._guard.look_up(host, port)
        except socket.gaierror:
            addresses = []
        except ServeAppError:
            addresses = []  # whether a name exists is not told
        if not addresses:
            raise SourceError(
                f"{self._source.name} leads to another server, which has no address that may be reached; see "
                "SERVE_APP_ALLOWED_NETWORKS"
            )
        return self._dial(addresses, port)

    def _dial(self, addresses: list[str], port: int) -> socket.socket:
        try:
            return _connected(addresses, port)
        except TimeoutError:
            raise SourceGone(f"{self._source.name} does not answer") from None
        except OSError as exc:
            raise SourceGone(f"{self._source.name}: {_words(exc)}") from None

    def _trouble(self, exc: OSError | HTTPException | ValueError) -> SourceError:
        name = self._source.name
        if isinstance(exc, ssl.SSLError):
            return explain_tls(self._source, exc)
        if isinstance(exc, ConnectionError):  # http.client's, of a server that hangs up, among them
            return SourceGone(f"{name}: {_words(exc)}")
        if isinstance(exc, HTTPException | ValueError):
            return SourceError(f"{name} does not answer in HTTP")
        return SourceGone(f"{name}: {_words(exc)}")


class Reply:
    """A server's answer. Its body is read as it comes."""

    def __init__(self, client: WebClient, connection: HTTPConnection, response: HTTPResponse, url: str) -> None:
        self._client = client
        self._connection = connection
        self._response = response
        self.url = url  # at the end of its redirects
        self.status = response.status
        self.size: int | None = response.length  # bytes, where the server says so
        self._left = response.length
        self._read_already = b""

    def header(self, name: str) -> str:
        """Its value, or empty."""
        return str(self._response.headers.get(name, ""))

    @property
    def content_type(self) -> str:
        """In lower case, without its parameters."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    def peek(self, size: int) -> bytes:
        """The body's first bytes, which are read again by ``read``: fewer where there are no more."""
        while len(self._read_already) < size and (data := self._fetch(1 << 16)):
            self._read_already += data
        return self._read_already

    def read(self, size: int = 1 << 16, /) -> bytes:
        """What has come, but no more than ``size`` bytes; empty at the end. Raises SourceGone, SourceStalled."""
        if self._read_already:
            data, self._read_already = self._read_already[:size], self._read_already[size:]
            return data
        return self._fetch(size)

    def read_all(self, max_bytes: int) -> bytes | None:
        """The rest of the body, or None when it is larger than that."""
        data = bytearray()
        while chunk := self.read():
            data += chunk
            if len(data) > max_bytes:
                return None
        return bytes(data)

    def close(self) -> None:
        """The connection."""
        self._response.close()
        self._connection.close()

    def _fetch(self, size: int) -> bytes:
        self._client.check_patience()
        with self._client.explained():
            data = self._response.read1(size)
            if not data and self._left:
                raise ConnectionResetError
        if self._left is not None:
            self._left -= len(data)
        return data


def _origin(url: httpx.URL) -> tuple[str, int]:
    return url.host, url.port or _DEFAULT_PORTS[url.scheme]


def _as_httpx(response: HTTPResponse, request: httpx.Request) -> httpx.Response:
    """What httpx has to know of an answer. Other headers may hold anything."""
    headers = [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers.items()
        if name.lower() in {"www-authenticate", "set-cookie"}
    ]
    return httpx.Response(response.status, headers=headers, request=request)


def _connected(hosts: list[str], port: int) -> socket.socket:
    """To the first that takes the connection. Raises OSError, of the last one."""
    hosts = hosts[:_ADDRESSES_TRIED]
    for host in hosts[:-1]:
        try:
            return _patient(socket.create_connection((host, port), _TIMEOUT_S / len(hosts)))
        except OSError:
            continue
    return _patient(socket.create_connection((hosts[-1], port), _TIMEOUT_S / len(hosts)))


def _patient(connected: socket.socket) -> socket.socket:
    connected.settimeout(_TIMEOUT_S)
    return connected


def _of_proxy(proxy: Proxy) -> str:
    return f"the proxy {proxy.name}, which the environment names (no_proxy leaves a host out)"


def _words(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return "its name stands for no address"
    return os.strerror(exc.errno) if exc.errno else "the connection broke"

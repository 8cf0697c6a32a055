"""Why a source that FFmpeg reads cannot be read, in a sentence."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from http.client import responses
from urllib.parse import urlsplit

import av
import certifi

from serve_app.errors import SourceDenied, SourceError, SourceGone, SourceStalled, SourceTooLarge, SourceUntrusted
from serve_app.streams.capture.source import Source

_REACH_TIMEOUT_S = 2.0
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_REFUSAL = re.compile(r"method \w+ failed: (\d{3})")  # FFmpeg's words; the camera's own follow
_RTSP_STATUSES = {  # those that HTTP has not: RFC 2326, 7.1.1
    451: "Parameter Not Understood",
    452: "Conference Not Found",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    456: "Header Field Not Valid for Resource",
    457: "Invalid Range",
    458: "Parameter Is Read-Only",
    459: "Aggregate Operation Not Allowed",
    460: "Only Aggregate Operation Allowed",
    461: "Unsupported Transport",
    462: "Destination Unreachable",
    505: "RTSP Version Not Supported",
    551: "Option Not Supported",
}
_ADVICE = {
    401: "it refuses these credentials",
    403: "it refuses these credentials",
    404: "check the path of its address",
    407: "it refuses these credentials",
    410: "check the path of its address",
    429: "it is asked too often",
    453: "it has too many viewers",
    461: "it does not send over TCP, which is all that is read",
    503: "it is overloaded, or starts",
}


def explain(source: Source, exc: Exception, *, timed_out: bool, said: str = "") -> SourceError:
    """What FFmpeg's error means for the stream. FFmpeg's own text, and what it ``said`` in its log, name the address,
    with its credentials: it must not come into a log as the cause, either."""
    if isinstance(exc, PermissionError) and not isinstance(exc, av.FFmpegError):
        return SourceDenied(f"{source.name} may not be read by this process: see its permissions")
    if source.kind == "rtsps" and (trouble := _trouble_with_tls(source)):
        return trouble
    if status := _status_of(exc, said):
        return refusal(source, status)
    if timed_out and _is_reachable(source):
        return SourceStalled(f"{source.name} is connected and sends no video")
    if timed_out:
        return SourceGone(f"{source.name} does not answer")
    if isinstance(exc, av.InvalidDataError | ValueError) or (source.kind == "file" and isinstance(exc, av.EOFError)):
        return SourceError(f"{source.name} cannot be read as video")
    number = getattr(exc, "errno", 0)
    if number in errno.errorcode:
        return SourceGone(f"{source.name}: {os.strerror(number)}")
    if (name := urlsplit(source.uri).hostname) and not _has_address(name):
        return SourceGone(f"{source.name}: the host's name stands for no address")
    return SourceGone(f"{source.name}: the connection broke")


def refusal(source: Source, status: int, through: str = "") -> SourceError:
    """What a status that is none of success means for the stream: by number, since the server's own words are not
    ours to show."""
    words = _RTSP_STATUSES.get(status, "") if source.kind in {"rtsp", "rtsps"} else ""
    words = words or responses.get(status, "which is no success")
    advice = f": {_ADVICE[status]}" if status in _ADVICE else ""
    if status == 401 and "@" not in urlsplit(source.uri).netloc:
        advice = ": write user:password@ before its host"
    kind = SourceDenied if status in {401, 403, 407} else SourceGone
    return kind(f"{source.name} answers {status} {words}{through}{advice}")


def explain_tls(source: Source, exc: ssl.SSLError) -> SourceError:
    """What a failure of TLS means for the stream."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return SourceUntrusted(
            f"{source.name} shows a certificate that is not trusted here ({exc.verify_message}): see tls_verify"
        )
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return SourceGone(f"{source.name}: the connection broke")
    return SourceError(f"{source.name}: TLS failed ({(exc.reason or 'for no reason given').replace('_', ' ').lower()})")


def too_large(source: Source, max_pixels: int) -> SourceTooLarge:
    """Return the refusal of pictures of more than ``max_pixels``."""
    return SourceTooLarge(
        f"limits.max_megapixels: {source.name} has pictures of more than {max_pixels // 1_000_000} megapixels",
        limit="limits.max_megapixels",
    )


def is_verified(source: Source) -> bool:
    """Return whether its certificate is checked."""
    return source.tls_verify and source.kind in {"https", "rtsps"}


def authorities() -> str:
    """The file of those who vouch for certificates: ``SSL_CERT_FILE``, the system's, or else Mozilla's."""
    return ssl.get_default_verify_paths().cafile or certifi.where()


def tls_for(source: Source) -> ssl.SSLContext:
    """How to connect to the source, which may have to show a certificate."""
    context = ssl.create_default_context(cafile=authorities() if is_verified(source) else None)
    if not is_verified(source):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _status_of(exc: Exception, said: str) -> int:
    """The status that a camera answered, or 0. FFmpeg has an error of its own for some, and says all in its log."""
    if found := _REFUSAL.search(said):
        return int(found[1])
    kinds: dict[type[Exception], int] = {
        av.error.HTTPUnauthorizedError: 401,
        av.error.HTTPForbiddenError: 403,
        av.error.HTTPNotFoundError: 404,
        av.error.HTTPBadRequestError: 400,
        av.error.HTTPTooManyRequestsError: 429,
        av.error.HTTPServerError: 500,
    }
    return kinds.get(type(exc), 0)


def _has_address(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except (OSError, ValueError):
        return False


def _trouble_with_tls(source: Source) -> SourceError | None:
    """FFmpeg says only that something went wrong."""
    parts = urlsplit(source.uri)
    address = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        with (
            socket.create_connection(address, _REACH_TIMEOUT_S) as connection,
            tls_for(source).wrap_socket(connection, server_hostname=parts.hostname),
        ):
            return None
    except ssl.SSLError as exc:
        return explain_tls(source, exc)
    except (OSError, ValueError):  # nobody is there, or the host's name is none
        return None


def _is_reachable(source: Source) -> bool:
    """Somebody takes connections there: what sends nothing then is not the network."""
    parts = urlsplit(source.uri)
    if source.kind in {"udp", "file", "device"} or parts.hostname is None:
        return source.kind != "udp"
    try:
        socket.create_connection((parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)), _REACH_TIMEOUT_S).close()
    except OSError:
        return False
    return True

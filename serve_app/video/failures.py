"""Error messages for sources that cannot be read."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import responses
from urllib.parse import urlsplit

import av
import certifi

from serve_app.errors import SourceDenied, SourceError, SourceGone, SourceStalled, SourceTooLarge, SourceUntrusted
from serve_app.video.source import Source

_REACH_TIMEOUT_S = 2.0
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
# FFmpeg logs this text before it logs the text that the camera sent.
_REFUSAL = re.compile(r"method \w+ failed: (\d{3})")
_RTSP_STATUSES = {  # the statuses that only RTSP has (RFC 2326, 7.1.1)
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
    401: "it refuses these credentials; check them",
    403: "it refuses these credentials; check them",
    404: "check the path of its URL",
    407: "it refuses these credentials; check them",
    410: "check the path of its URL",
    429: "it gets too many requests",
    453: "it has too many viewers",
    461: "it does not send over TCP, the only supported transport",
    503: "it is overloaded or still starting",
}


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect what FFmpeg logs in this thread. The list is filled when the ``with`` block ends.

    FFmpeg's lines must not reach any other log, because they may contain URLs with passwords.
    """
    lines: list[str] = []
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # otherwise, the reason of a second, equal failure would be missing
    try:
        with av.logging.Capture() as records:
            yield lines
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)
        lines += [message for _, _, message in records]


def explain(source: Source, exc: Exception, *, timed_out: bool, log_text: str = "") -> SourceError:
    """Return the SourceError for an error of FFmpeg or the operating system.

    FFmpeg's error messages and its log (``log_text``) contain the URL with its credentials. So the SourceError quotes
    neither, and callers must raise it ``from None``.
    """
    if isinstance(exc, PermissionError) and not isinstance(exc, av.FFmpegError):
        return SourceDenied(f"{source.name} cannot be read by this process; change its permissions")
    if source.kind == "rtsps" and (error := _tls_error(source)):
        return error
    if status := _status_of(exc, log_text):
        return refusal(source, status)
    if timed_out and _is_reachable(source):
        return SourceStalled(f"{source.name} is connected but sends no video")
    if timed_out:
        return SourceGone(f"{source.name} does not answer")
    if isinstance(exc, av.InvalidDataError | ValueError) or (source.kind == "file" and isinstance(exc, av.EOFError)):
        return SourceError(f"{source.name} cannot be read as video")
    number = getattr(exc, "errno", 0)
    if number in errno.errorcode:
        return SourceGone(f"{source.name}: {os.strerror(number)}")
    if (name := urlsplit(source.uri).hostname) and not _has_address(name):
        return SourceGone(f"{source.name}: the host name cannot be resolved")
    return SourceGone(f"{source.name}: the connection was lost")


def refusal(source: Source, status: int, through: str = "") -> SourceError:
    """Return the SourceError for an error status.

    Its message contains the standard reason phrase, because the server's own phrase could contain anything.
    """
    reason = _RTSP_STATUSES.get(status, "") if source.kind in {"rtsp", "rtsps"} else ""
    reason = reason or responses.get(status, "(an error)")
    advice = f": {_ADVICE[status]}" if status in _ADVICE else ""
    if status == 401 and "@" not in urlsplit(source.uri).netloc:
        advice = ": add user:password@ before the host"
    kind = SourceDenied if status in {401, 403, 407} else SourceGone
    return kind(f"{source.name} answered {status} {reason}{through}{advice}")


def explain_tls(source: Source, exc: ssl.SSLError) -> SourceError:
    """Return the SourceError for a TLS failure."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return SourceUntrusted(
            f"{source.name} has a certificate that is not trusted ({exc.verify_message}); add the "
            "certificate's authority to the file that SSL_CERT_FILE names, or set tls_verify to false"
        )
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return SourceGone(f"{source.name}: the connection was lost")
    return SourceError(f"{source.name}: TLS failed ({(exc.reason or 'no reason given').replace('_', ' ').lower()})")


def too_large(source: Source, max_pixels: int) -> SourceTooLarge:
    """Return the SourceError for frames of more than ``max_pixels``."""
    return SourceTooLarge(
        f"limits.max_megapixels: {source.name} has frames of more than {max_pixels // 1_000_000} megapixels",
        limit="limits.max_megapixels",
    )


def is_verified(source: Source) -> bool:
    """Return whether the source's certificate is verified."""
    return source.tls_verify and source.kind in {"https", "rtsps"}


def trusted_ca_file() -> str:
    """Return the path of the file that lists the trusted certificate authorities.

    It is the file that ``SSL_CERT_FILE`` names, or else OpenSSL's default file, or else Mozilla's list (certifi).
    """
    return ssl.get_default_verify_paths().cafile or certifi.where()


def tls_for(source: Source) -> ssl.SSLContext:
    """Return the TLS context for a source. The context verifies the certificate, except if ``tls_verify`` is false."""
    context = ssl.create_default_context(cafile=trusted_ca_file() if is_verified(source) else None)
    if not is_verified(source):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _status_of(exc: Exception, log_text: str) -> int:
    """Return the error status that a camera sent, or 0 if it sent none.

    FFmpeg logs all RTSP statuses, but has error classes for only some of them.
    """
    if found := _REFUSAL.search(log_text):
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


def _tls_error(source: Source) -> SourceError | None:
    """Return why TLS failed, or None if we find no reason.

    We connect to the source for this, because FFmpeg does not report the reason.
    """
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
    except (OSError, ValueError):  # the host is unreachable, or its name is not valid
        return None


def _is_reachable(source: Source) -> bool:
    """Return whether the source accepts connections. If it does, the network is not the cause of a timeout."""
    parts = urlsplit(source.uri)
    if source.kind in {"udp", "file", "device"} or parts.hostname is None:
        return source.kind != "udp"
    try:
        socket.create_connection((parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)), _REACH_TIMEOUT_S).close()
    except OSError:
        return False
    return True

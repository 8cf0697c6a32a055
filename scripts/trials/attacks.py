"""Random hostile requests, such as damaged images, image bombs, false lengths, and malformed multipart or HTTP."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scripts.trials import bombs
from scripts.trials.compat_attacks import compat_request
from scripts.trials.damage import damaged, pictures
from scripts.trials.field.pictures import doors
from scripts.trials.socket_attacks import socket_attack
from scripts.trials.tensor_attacks import tensor_attack
from scripts.trials.wire import request

TARGET = "target"  # the id of the stream under attack
_PICTURES = [*pictures().values(), *doors.whole(random.Random(0))]
_BOMBS = bombs.BOMBS | doors.BOMBS
_SOUND = pictures()["JPEG"]
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Attack:
    """A hostile request: the bytes to send, and how the server may react to them."""

    kind: str
    parts: Sequence[bytes]
    # The methods of those requests in ``parts`` that the server may answer. They are in the order of the requests.
    methods: tuple[str, ...] = ("POST",)
    pause_s: float = 0  # the pause after each part
    is_answered: bool = True  # False if the server may also close the connection without an answer
    leaves: bool = False  # True if the client closes the connection before the answer


def make(seed: int, number: int, api: Sequence[Attack]) -> Attack:
    """Return the attack with this seed and number. ``api`` holds the attacks generated from the OpenAPI document."""
    rng = random.Random(f"{seed} {number}")
    (family,) = rng.choices(list(_FAMILIES), list(_FAMILIES.values()))
    attack = rng.choice(api) if family is _api else family(rng)
    if attack.is_answered and attack.methods and rng.random() < 0.02:
        return replace(attack, kind=f"{attack.kind}, and leaves", leaves=True, is_answered=False)
    return attack


def _post(kind: str, body: bytes, *headers: tuple[str, str], path: str = "/detect", **how: object) -> Attack:
    return Attack(kind, (request("POST", path, headers, body),), **how)  # type: ignore[arg-type]


def _api(rng: random.Random) -> Attack:
    raise NotImplementedError  # ``make`` picks an attack from ``api`` instead of calling this


def _picture(rng: random.Random) -> Attack:
    """Return a damaged image, either as the whole body or as one of several multipart parts."""
    body = damaged(rng, rng.choice(_PICTURES), rng.choice(_PICTURES))
    headers = [("Content-Type", rng.choice(("image/jpeg", "application/octet-stream", "text/html", "")))]
    if rng.random() < 0.1:
        headers.append(("Accept", "image/jpeg"))
    path = "/detect" + rng.choice(("", "", "?confidence=0.01", "?max_detections=3000&iou=0&confidence=0.01"))
    if rng.random() < 0.8:
        return _post("picture", body, *headers, path=path)
    parts = [body, *(rng.choice((_SOUND, body, b"")) for _ in range(rng.randrange(4)))]
    rng.shuffle(parts)
    return _multipart("image in parts", b"".join(_part(part) for part in parts) + b"--x--\r\n", path=path)


def _bomb(rng: random.Random) -> Attack:
    name = rng.choice(list(_BOMBS))
    return _post(f"bomb: {name}", _BOMBS[name]())


def _gzipped(rng: random.Random) -> Attack:
    """Return a gzip body, often with a Content-Encoding that is wrong or not supported."""
    body = gzip.compress(rng.choice((_SOUND, bytes(4 * _MEBIBYTE))), 1)
    encoding = rng.choice(("gzip", "deflate", "br", "gzip, gzip", "zstd", "identity", "x" * 1000))
    return _post("compressed body", body, ("Content-Encoding", encoding))


def _tensor(rng: random.Random) -> Attack:
    body, headers, path = tensor_attack(rng)
    return _post("tensor", body, *headers, path=path)


def _part(data: bytes, head: bytes = b'Content-Disposition: form-data; name="file"; filename="a.jpg"') -> bytes:
    return b"--x\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def _multipart(kind: str, body: bytes, boundary: str = "boundary=x", path: str = "/detect") -> Attack:
    return _post(kind, body, ("Content-Type", f"multipart/form-data; {boundary}"), path=path)


_DISPOSITIONS = (
    b"Content-Disposition: form-data",
    b"Content-Disposition: attachment",
    b"Content-Disposition: ;;;",
    b'Content-Disposition: form-data; name="file"',
    b'Content-Disposition: form-data; name="file"; filename=""',
    b'Content-Disposition: form-data; name="file"; filename="../../etc/passwd"',
    b'Content-Disposition: form-data; name="file"; filename="a\0b"',
    b"Content-Disposition: form-data; name=file; filename*=UTF-8''%ff%00",
    b"Content-Disposition: form-data; name*0=fi; name*1=le; filename=a",
    b'Content-Disposition: form-data; name="other"; filename="a"',
    b'Content-Disposition: form-data; name="file"; name="other"; filename="a"',
    b'Content-Disposition: form-data; name="\xff\xfe"; filename="\xff"',
    b'Content-Disposition: form-data; name="file"; filename="' + b"a" * 100_000 + b'"',
    b"X-Long: " + b"a" * 200_000,
    b"no colon",
    b": no name",
    b"Content-Type: text/plain; charset=utf-7",
    b"Content-Transfer-Encoding: base64",
    b"\r\n".join(b"X-%d: y" % number for number in range(2000)),
)
_BOUNDARIES = (
    "", "boundary", "boundary=", 'boundary=""', "boundary=y", "boundary=" + "x" * 5000, "boundary=x; boundary=y",
    'boundary="x', "boundary=x\t", "boundary=\xff", "charset=utf-16; boundary=x", "BOUNDARY=x", "boundary==x",
    "boundary=--x", "boundary*=utf-8''x", "boundary*0=x", "charset=nonsense; boundary=x",
)  # fmt: skip


def _malformed_multipart(rng: random.Random) -> Attack:
    good = _part(_SOUND) + b"--x--\r\n"
    match rng.randrange(9):
        case 0:
            count = rng.choice((2, 33, 1000, 20_000))
            return _multipart("multipart: many parts", count * _part(b"") + b"--x--\r\n")
        case 1:
            return _multipart("multipart: head of a part", _part(_SOUND, rng.choice(_DISPOSITIONS)) + b"--x--\r\n")
        case 2:
            return _multipart("multipart: boundary", good, rng.choice(_BOUNDARIES))
        case 3:
            inner = good.replace(b"--x", b"--y")
            head = b'Content-Disposition: form-data; name="file"\r\nContent-Type: multipart/mixed; boundary=y'
            return _multipart("multipart: nested", _part(inner, head) * rng.randrange(1, 9) + b"--x--\r\n")
        case 4:
            return _multipart("multipart: cut off", good[: rng.randrange(len(good))])
        case 5:
            place = rng.randrange(len(good))
            return _multipart("multipart: noise", good[:place] + rng.randbytes(20) + good[place + 20 :])
        case 6:
            ends = (b"--x--" * 1000, b"--x" * 1000 + b"--x--", b"\r\n" * 1000 + good, b"--x--\r\n" + good, b"--x--")
            return _multipart("multipart: boundaries alone", rng.choice(ends))
        case 7:
            subtype = rng.choice(("mixed", "form-data ", "FORM-DATA", "related", "byteranges", "x-mixed-replace", "*"))
            return _post("multipart: subtype", good, ("Content-Type", f"multipart/{subtype}; boundary=x"))
        case _:
            head = request("POST", "/detect", [("Content-Type", "multipart/form-data; boundary=x")], good)
            size = rng.choice((1, 7, 100))
            pieces = [head[start : start + size] for start in range(0, len(head), size)]
            return Attack("multipart: in pieces", pieces)


def _lying_length(rng: random.Random) -> Attack:
    """Return a request whose Content-Length or Transfer-Encoding is malformed, contradictory or wrong for the body."""
    length = len(_SOUND)
    lengths = (
        length + 1000, length - 100, 0, -1, 2**31, 2**63, 2**64, 10**99, f"+{length}", f"0x{length:x}",
        f"{length},{length}", f"{length}, 5", f"{length}.0", "", "five", f"{length}\0", "\xb2", f"0{length}",
        f"{length} {length}",
    )  # fmt: skip
    codings = (
        "chunked", "Chunked", "chunked, chunked", "gzip, chunked", "chunked, identity", "xchunked", "\x0bchunked",
        "identity", "chunked;q=1", "", "chunked\0", '"chunked"', "cow",
    )  # fmt: skip
    method = rng.choice(("POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD"))
    path = rng.choice(("/detect", "/detect", "/streams", "/health", "/streams/target/regions", "/nothing"))
    match rng.randrange(4):
        case 0:
            headers = [("Content-Length", str(rng.choice(lengths)))]
            kind = "length"
        case 1:
            headers = [("Content-Length", str(rng.choice(lengths))), ("Content-Length", str(length))]
            kind = "two lengths"
        case 2:
            headers = [("Transfer-Encoding", rng.choice(codings)), ("Content-Length", str(rng.choice((length, 4, 0))))]
            kind = "length and coding"
        case _:
            headers = [("Transfer-Encoding", rng.choice(codings)), ("Transfer-Encoding", rng.choice(codings))]
            kind = "two codings"
    body = rng.choice((_SOUND, b"0\r\n\r\n" + request("GET", "/smuggled"), b"5\r\nhello\r\n0\r\n\r\n" + request()))
    rng.shuffle(headers)
    return Attack(kind, (request(method, path, headers, body),), (method, "GET", "GET"), is_answered=False)


def _chunks(rng: random.Random) -> Attack:
    """Return a request with a chunked body that is malformed or never ends."""
    path = rng.choice(("/detect", "/detect", "/streams", "/health", "/nothing"))
    head = request("POST", path, [("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")])
    if rng.random() < 0.1:
        mebibyte = b"100000\r\n" + bytes(_MEBIBYTE) + b"\r\n"
        return Attack("chunks without end", (head, *[mebibyte] * 64), is_answered=False)
    malformed = (
        b"-1\r\nx\r\n", b"fffffffffffffffff\r\nx\r\n", b"7fffffffffffffff\r\nx\r\n", b"5\r\nhelloworld\r\n0\r\n\r\n",
        b"zz\r\n", b"\r\n\r\n", b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n", b"0\r\nX: y\r\n\r\n",
        b"5\nhello\n0\n\n", b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n", b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n", b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", b"0" * 1000 + b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello", b"5",
    )  # fmt: skip
    return Attack("chunks", (head, rng.choice(malformed)), is_answered=False)


_PATHS = (
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2fetc%2fpasswd", "//", "///detect", "/./detect", "/detect/",
    "/detect%00", "/%00", "/%ff%fe", "/%", "/%zz", "/detect;a=b", "/detect#x", "/streams/..%2f..%2fhealth",
    "/streams/%2e%2e", "/streams/" + "a" * 8000, "/" + "a" * 60_000, "/" + "a/" * 4000,
    "http://169.254.169.254/latest/", "http://localhost/health", "https://localhost/health", "*", "health", "",
    "/streams/target\0/regions", "/docs/..", "/openapi.json?" + "x" * 4000, "/-/healthz", "/-/routes", "/-/",
    "/detect?" + "a=b&" * 5000, "/detect?confidence=" + "1" * 5000, "/detect?%ff=%00", "/detect?classes=" + "a," * 5000,
    "/detect?classes=%00", "/health?\xff", "/\xe9", "/streams/\U0001f600/regions",
    "/streams/target/events?after=" + "9" * 400, "/streams/target/events?after=-1",
    "/streams/target/events?types=nothing", "/streams/target/preview.mjpeg?max_fps=1e400",
    "/streams/target/preview.mjpeg?max_fps=nan", "/streams/target/frame.jpg?boxes=2", "/streams/previews",
    "/console/../index.html", "/console/%2e%2e/%2e%2e/etc/passwd", "/console/..%2f..%2fapi/app.py", "/console/%00",
    "/console//etc/passwd", "/console/" + "a" * 8000, "/overview?x=" + "1" * 5000, "/session/", "/session?key=%00",
)  # fmt: skip
_METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "G\0T", "A" * 500,
    "PRI",
)  # fmt: skip
_ODD_HEADERS = (
    ("Host", ""), ("Host", "a b"), ("Host", "\xff"), ("Host", "localhost:99999"), ("Host", "[::1"),
    ("Host", "a" * 3000), ("Host", "evil.example"), ("Host", "localhost, localhost"), ("X-Request-ID", "\xff\xfe"),
    ("X-Request-ID", "a" * 10_000), ("X-Request-ID", ""), ("X-Request-ID", "a\tb"), ("X-Request-ID", "<script>"),
    ("X-Request-ID", "\xe4\xf6"), ("traceparent", "00-" + "f" * 500), ("traceparent", "\xff"),
    ("x-request-timeout-seconds", "0.000001"), ("x-request-timeout-seconds", "nan"),
    ("x-request-timeout-seconds", "-1"), ("x-request-timeout-seconds", "\xff"), ("x-request-timeout-seconds", "1e400"),
    ("x-request-disconnect-disabled", "?1"), ("x-request-disconnect-disabled", "\xff"),
    ("serve_multiplexed_model_id", "\xff"), ("serve_multiplexed_model_id", "other"),
    ("serve-multiplexed-model-id", "a" * 5000), ("x-session-id", "\xff"), ("x-session-id", "a" * 5000),
    ("Accept", "\xff"), ("Accept", "image/jpeg;q=0," * 1000), ("Content-Type", "\xff"), ("Content-Type", "a" * 10_000),
    ("Content-Type", "application/json; charset=utf-16"), ("Cookie", "a=b; " * 2000), ("Expect", "100-continue"),
    ("Expect", "nonsense"), ("Range", "bytes=0-,0-,0-"), ("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"),
    ("Connection", "close, keep-alive"), ("Max-Forwards", "0"), ("Authorization", "Bearer " + "a" * 8000),
    ("Authorization", "\xff"), ("Last-Event-ID", "9" * 400), ("Origin", "null"),
    ("X-Forwarded-For", "127.0.0.1, " * 500), ("Forwarded", 'for="[::1]"'), ("\xff", "a"), ("a b", "c"), ("", "a"),
    ("a", "b\0c"), ("a\r\n b", "folded"), ("a", "b\r\n c"), ("a", "b\rX-Injected: c"), ("a", "b\nX-Injected: c"),
    ("a" * 20_000, "b"),
)  # fmt: skip


def _path(rng: random.Random) -> Attack:
    method = rng.choice(("GET", "GET", "POST", "DELETE", "HEAD"))
    body = _SOUND if method == "POST" else None
    return Attack("path", (request(method, rng.choice(_PATHS), body=body),), (method,), is_answered=False)


def _method(rng: random.Random) -> Attack:
    method, path = (
        rng.choice(_METHODS),
        rng.choice(("/detect", "/streams", "/health", "/streams/target", "/nothing", "*")),
    )
    path = "/streams/target/regions" if method == "DELETE" else path
    return Attack("method", (request(method, path, body=rng.choice((None, b"x"))),), (method,), is_answered=False)


def _header(rng: random.Random) -> Attack:
    headers = rng.sample(_ODD_HEADERS, rng.choice((1, 1, 2, 3)))
    path = rng.choice(
        ("/detect", "/detect", "/health", "/streams/target/regions", "/streams/target/events", "/nothing")
    )
    method, body = ("POST", _SOUND) if path == "/detect" else ("GET", None)
    kind = ", ".join(f"{name[:30]!a}: {value[:12]!a}" for name, value in headers)
    return Attack(f"header {kind}", (request(method, path, headers, body),), (method,), is_answered=False)


def _headers(rng: random.Random) -> Attack:
    """Return a request with too many or too large headers."""
    count, size = rng.choice(((1000, 10), (10_000, 10), (1, 100_000), (100, 1000), (1, 2_000_000), (100, 50)))
    headers = [(f"X-{number}", size * "y") for number in range(count)]
    return Attack("headers without end", (request("GET", "/health", headers),), ("GET",), is_answered=False)


def _garbage(rng: random.Random) -> Attack:
    """Return bytes that are not an HTTP request."""
    lines = (
        b"GET /health\r\n", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n", b"\0" * 100,
        b" GET / HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n",
        b"GET  /health  HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(100), b"GET /health HTTP/1.1\nHost: a\n\n",
        b"HTTP/1.1 200 OK\r\n\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"*1\r\n$4\r\nPING\r\n", b"x" * 100_000,
        rng.randbytes(300), b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X" * 100_000,
        b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
    )  # fmt: skip
    return Attack("garbage", (rng.choice(lines),), ("GET",), is_answered=False)


def _pipelined(rng: random.Random) -> Attack:
    """Return several requests that are sent without waiting for answers."""
    requests = [request("GET", "/health"), request("POST", "/detect", body=_SOUND), request("GET", "/nothing")]
    requests += [
        request("POST", "/detect", body=b"no"),
        request("HEAD", "/health"),
        request("PUT", "/detect", body=b""),
    ]
    chosen = [rng.choice(requests) for _ in range(rng.choice((2, 10, 40)))]
    methods = tuple(item.split(b" ", 1)[0].decode() for item in chosen)
    return Attack("pipeline", (b"".join(chosen),), methods, is_answered=False)


def _socket(rng: random.Random) -> Attack:
    return Attack("WebSocket", socket_attack(rng, TARGET), ("GET",), 0.01, is_answered=False)


def _follower(rng: random.Random) -> Attack:
    """Return a request for an endless response. The client reads almost nothing of this response."""
    path = f"/streams/{TARGET}/" + rng.choice(("events", "events?after=0", "preview.mjpeg", "preview.mjpeg?max_fps=30"))
    headers = rng.choice(([], [("x-request-disconnect-disabled", "?1")], [("Last-Event-ID", "0")]))
    return Attack("follower", (request("GET", path, headers),), ("GET",))


def _compat(rng: random.Random) -> Attack:
    """Return a request to a route of another server's protocol."""
    whole = compat_request(rng, _PICTURES, lambda picture: damaged(rng, picture, rng.choice(_PICTURES)))
    return Attack("another server's protocol", (whole,), methods=(whole.partition(b" ")[0].decode(),))


_FAMILIES: dict[Callable[[random.Random], Attack], float] = {
    _api: 15,
    _picture: 35,
    _bomb: 0.5,
    _gzipped: 2,
    _malformed_multipart: 12,
    _lying_length: 8,
    _chunks: 4,
    _path: 4,
    _method: 3,
    _header: 8,
    _headers: 1,
    _garbage: 3,
    _tensor: 5,
    _pipelined: 1.5,
    _socket: 2,
    _follower: 1,
    _compat: 15,
}


def held(seed: int, number: int) -> tuple[bytes, bytes]:
    """Return what a slow client sends: the bytes at the start, and the bytes that follow one at a time."""
    rng = random.Random(f"{seed} held {number}")
    detect = request("POST", "/detect", [("Content-Length", "100000")])
    chunked = request("POST", "/detect", [("Transfer-Encoding", "chunked")])
    json = request("POST", "/streams", [("Content-Type", "application/json"), ("Content-Length", "5000")])
    start, rest = rng.choice(
        (
            (b"", b""),
            (b"", detect),
            (b"GET /heal", b"th HTTP/1.1\r\nX: " + b"y" * 10_000),
            (detect[:-2], b"X: " + b"y" * 10_000),
            (detect, _SOUND * 100),
            (detect + _SOUND[:500], b""),
            (chunked, b"1\r\nx\r\n" * 5000),
            (json, b" " * 4000),
            (request("GET", f"/streams/{TARGET}/events"), b""),
            (request("POST", "/detect", [("Accept", "image/jpeg")], _SOUND), b""),
            (request("GET", "/openapi.json") * 200, b""),
        )
    )
    return start, rest

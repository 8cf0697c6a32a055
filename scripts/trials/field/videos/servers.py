"""Web servers that imitate the headers, boundaries, playlists and snapshots of cameras and media servers."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from scripts.trials.field.videos import clips

KEY, IV = bytes(range(16)), bytes(range(16, 32))
SHOTS = [clips.jpeg(shade=shade) for shade in range(0, 250, 10)]
_PAUSE_S = 0.01
Answer = Callable[["Handler"], None]
Answers = (
    Mapping[str, Answer] | Callable[[], Mapping[str, Answer]]
)  # a mapping from paths to answers, or a function that makes such a mapping on demand


class Handler(BaseHTTPRequestHandler):
    """A handler that answers from its server's table of paths."""

    server: Server

    def do_GET(self) -> None:
        """Send the answer for the path, or 404 if the table has no answer for the path."""
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path.partition("?")[0])
        try:
            if answer is None:
                self.send_error(404)
            else:
                answer(self)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing, to keep the output readable."""


class Server(ThreadingHTTPServer):
    """A web server that records the requested paths."""

    daemon_threads = True

    def __init__(self, answers: Mapping[str, Answer], protocol: str) -> None:
        self.answers = answers
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), type("Speaks", (Handler,), {"protocol_version": protocol}))
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(answers: Mapping[str, Answer], protocol: str = "HTTP/1.1") -> Iterator[Server]:
    """Run a server with these answers on loopback while the ``with`` block runs, and yield the server."""
    with Server(answers, protocol) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sends(data: bytes, status: int = 200, has_length: bool = True, **headers: str) -> Answer:
    """Return an answer with this body. An underscore in the name of a header stands for a hyphen."""
    return answers(data, headers, status, has_length)


def answers(data: bytes, headers: Mapping[str, str], status: int = 200, has_length: bool = True) -> Answer:
    """Return an answer with this body and these headers."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if has_length:
            handler.send_header("Content-Length", str(len(data)))
        else:
            handler.close_connection = True
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def sends_parts(data: bytes, **headers: str) -> Answer:
    """Return an answer that sends the body, or only the byte range that the client requests."""

    def answer(handler: Handler) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if found is None:
            answers(data, headers)(handler)
            return
        start, last = int(found[1]), int(found[2] or len(data) - 1)
        place = f"bytes {start}-{last}/{len(data)}"
        answers(data[start : last + 1], {"Content-Range": place, **headers}, 206)(handler)

    return answer


def streams(pieces: Callable[[bytes], bytes], is_chunked: bool = False, **headers: str) -> Answer:
    """Return an answer that sends JPEGs endlessly. ``pieces`` formats each JPEG."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if is_chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.close_connection = True
        handler.end_headers()
        while True:
            for shot in SHOTS:
                piece = pieces(shot)
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
                time.sleep(_PAUSE_S)

    return answer


def asks_for_credentials(kind: str, then: Answer, user: str = "admin", password: str = "p@ss/word") -> Answer:
    """Return an answer that requires credentials before it gives ``then``.

    ``kind`` is "Basic", "Digest" (RFC 2617, section 3.2.2), "old" or "both". "old" stands for Digest without the
    parameter ``qop``. With "both", the answer offers Basic and Digest, but accepts only Digest.
    """
    realm, nonce = "camera", "dcd98b7102dd2f0e8b11d0f600bfb0c093"

    def is_right(given: str, path: str) -> bool:
        if given.startswith("Basic"):
            return kind == "Basic" and given[6:] == base64.b64encode(f"{user}:{password}".encode()).decode()
        said = dict(re.findall(r'(\w+)="?([^",]*)"?', given))
        if kind == "Basic" or said.get("uri") != path:
            return False
        first, second = f"{user}:{realm}:{password}", f"GET:{path}"
        middle = f"{nonce}:{said['nc']}:{said['cnonce']}:{said['qop']}" if "qop" in said else nonce
        hashes = [hashlib.md5(text.encode()).hexdigest() for text in (first, second)]
        return said.get("response") == hashlib.md5(f"{hashes[0]}:{middle}:{hashes[1]}".encode()).hexdigest()

    def answer(handler: Handler) -> None:
        if is_right(handler.headers.get("Authorization", ""), handler.path):
            then(handler)
            return
        handler.send_response(401)
        if kind == "Basic":
            handler.send_header("WWW-Authenticate", f'Basic realm="{realm}"')
        else:
            qop = ', qop="auth"' if kind == "Digest" else ""
            if kind == "both":
                handler.send_header("WWW-Authenticate", f'Basic realm="{realm}"')
            handler.send_header("WWW-Authenticate", f'Digest realm="{realm}", nonce="{nonce}", algorithm=MD5{qop}')
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def segments(count: int = 3, codec: str = "libx264") -> list[bytes]:
    """Return an MPEG-TS clip, cut into ``count`` pieces of about ten frames each."""
    with tempfile.TemporaryDirectory() as folder:
        data = clips.save(Path(folder) / "a.ts", codec, frames=10 * count).read_bytes()
    share = len(data) // 188 // count
    cuts = [*(188 * share * number for number in range(count)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


def encrypted(data: bytes, iv: bytes = IV, key: bytes = KEY) -> bytes:
    """Encrypt a segment with AES-128, as in HLS (RFC 8216, section 4.3.2.4)."""
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()


def playlist(*lines: str, is_over: bool = True) -> bytes:
    """Return a media playlist of ``lines``, which are tags if they begin with ``#`` and URIs of segments otherwise."""
    head = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
    body = [line if line.startswith("#") else f"#EXTINF:0.4,\n{line}" for line in lines]
    return "\n".join([*head, *body, *["#EXT-X-ENDLIST"] * is_over, ""]).encode()


def hls(names: list[str], parts: list[bytes], *tags: str, content_type: str = "video/mp2t") -> dict[str, Answer]:
    """Return the answers of a server with an HLS recording. The path of the playlist is ``/a.m3u8``."""
    text = playlist(*tags, *names)
    found = {"/a.m3u8": sends(text, Content_Type="application/vnd.apple.mpegurl")}
    for name, part in zip(names, parts, strict=True):
        found["/" + name.partition("?")[0].lstrip("/")] = sends(part, Content_Type=content_type)
    return found

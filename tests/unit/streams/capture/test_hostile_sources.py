"""Sources that try to make FFmpeg read files and reach servers that nobody named."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from serve_app.errors import SourceError
from serve_app.streams.capture import video
from serve_app.streams.capture.source import parse_source
from serve_app.streams.capture.video import open_video
from tests.support.traps import Trap, trap

FRAMES = 5


def save(path: Path, codec: str = "mpeg4", side_px: int = 64) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = side_px
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(FRAMES):
            picture = np.random.default_rng(number).integers(0, 255, (side_px, side_px, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A video that nobody may see."""
    (tmp_path / "secret").mkdir()
    return save(tmp_path / "secret/secret.ts", "mpeg2video")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


@pytest.fixture
def forbidden() -> Iterator[Trap]:
    with trap() as it:
        yield it


@pytest.fixture(autouse=True)
def _nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_OPEN_TIMEOUT_S", 2.0)
    monkeypatch.setattr(video, "_READ_TIMEOUT_S", 2.0)


def frames_of(uri: Path | str, *media_dirs: Path) -> int:
    with open_video(parse_source(str(uri), media_dirs), max_pixels=1_000_000) as opened:
        return len([pixels() for pixels, _ in opened])


def playlist(segment: str, *lines: str) -> str:
    head = ["#EXTM3U", "#EXT-X-VERSION:5", "#EXT-X-TARGETDURATION:1", *lines]
    return "\n".join([*head, "#EXTINF:0.2,", segment, "#EXT-X-ENDLIST", ""])


def master(variant: str) -> str:
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{variant}\n"


SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    "a=control:rtsp://127.0.0.1:{port}/\n"
)
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp2t">'
    '<Representation id="1" bandwidth="1"><BaseURL>{uri}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
# What a file or an answer holds; {secret} is the video's path, {port} the forbidden listener's.
LISTS = {
    "HLS, file": playlist("file://{secret}"),
    "HLS, file without slashes": playlist("file:{secret}"),
    "HLS, path": playlist("{secret}"),
    "HLS, concat": playlist("concat:{secret}"),
    "HLS, concat of a server": playlist("concat:http://127.0.0.1:{port}/|{secret}"),
    "HLS, subfile": playlist("subfile,,start,0,end,0,,:{secret}"),
    "HLS, crypto": playlist("crypto+file://{secret}"),
    "HLS, async": playlist("async:{secret}"),
    "HLS, cache": playlist("cache:{secret}"),
    "HLS, data": playlist("data:video/mp2t;base64,AAAA"),
    "HLS, tcp": playlist("tcp://127.0.0.1:{port}"),
    "HLS, udp": playlist("udp://127.0.0.1:{port}"),
    "HLS, rtsp": playlist("rtsp://127.0.0.1:{port}/"),
    "HLS, ftp": playlist("ftp://127.0.0.1:{port}/"),
    "HLS, gopher": playlist("gopher://127.0.0.1:{port}/"),
    "HLS, key": playlist("file://{secret}", '#EXT-X-KEY:METHOD=AES-128,URI="file://{secret}"'),
    "HLS, map": playlist("file://{secret}", '#EXT-X-MAP:URI="file://{secret}"'),
    "HLS, variant": master("file://{secret}.m3u8"),
    "HLS, variant by concat": master("concat:{secret}.m3u8"),
    "concat script": "ffconcat version 1.0\nfile {secret}\n",
    "concat script, file": "ffconcat version 1.0\nfile 'file:{secret}'\n",
    "concat script of a server": "ffconcat version 1.0\nfile http://127.0.0.1:{port}/\n",
    "SDP": SDP,
    "DASH": DASH.format(uri="file://{secret}"),
    "DASH of a server": DASH.format(uri="tcp://127.0.0.1:{port}"),
}
NAMES_SERVER = {
    "HLS, http": playlist("http://127.0.0.1:{port}/a.ts"),
    "HLS, variant by http": master("http://127.0.0.1:{port}/a.m3u8"),
    "HLS, variant by tcp": master("tcp://127.0.0.1:{port}/a.m3u8"),
}


def filled(text: str, secret: Path, forbidden: Trap) -> bytes:
    return text.replace("{secret}", str(secret)).replace("{port}", str(forbidden.port)).encode()


@pytest.fixture
def lists(secret: Path, media: Path) -> None:
    """What the lists name is there, and is video."""
    shutil.copy(secret, f"{secret}.m3u8")
    assert frames_of(secret, secret.parent) == FRAMES


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".ts"])
@pytest.mark.parametrize("name", [*LISTS, *NAMES_SERVER])
def test_a_file_that_names_other_files_or_servers_is_no_video(
    name: str, suffix: str, secret: Path, media: Path, forbidden: Trap
) -> None:
    path = media / f"a{suffix}"
    path.write_bytes(filled((LISTS | NAMES_SERVER)[name], secret, forbidden))
    with pytest.raises(SourceError):
        frames_of(path, media)


@pytest.mark.parametrize("suffix", [".sdp", ".ffconcat", ".concat", ".mpd", ".xml", ".txt", ""])
def test_nor_is_it_by_another_name(suffix: str, secret: Path, media: Path, forbidden: Trap) -> None:
    for number, text in enumerate((LISTS | NAMES_SERVER).values()):
        path = media / f"{number}{suffix}"
        path.write_bytes(filled(text, secret, forbidden))
        with pytest.raises(SourceError):
            frames_of(path, media)


@pytest.mark.parametrize(
    "text",
    [
        "concat:{secret}",
        "concat:{secret}|{secret}",
        "concat:http://127.0.0.1:{port}/|{secret}",
        "subfile,,start,0,end,0,,:{secret}",
        "subfile,,start,0,end,0,,:http://127.0.0.1:{port}/",
        "file:{secret}",
        "file://{secret}",
        "FILE://{secret}",
        "file://localhost{secret}",
        "file:///{secret}",
        "file:////{secret}",
        "\tfile://{secret}",
        "fi\nle://{secret}",
        "file,,:{secret}",
        "file%3a{secret}",
        "crypto:{secret}",
        "crypto+file://{secret}",
        "async:{secret}",
        "async:http://127.0.0.1:{port}/",
        "cache:{secret}",
        "cache:http://127.0.0.1:{port}/",
        "data:video/mp2t;base64,AAAA",
        "pipe:",
        "pipe:0",
        "fd:",
        "unix:/run/x",
        "md5:{secret}.md5",
        "tee:{secret}.tee",
        "prompeg:udp://127.0.0.1:{port}",
        "hls+http://127.0.0.1:{port}/a.m3u8",
        "hls+file://{secret}",
        "mmsh://127.0.0.1:{port}/",
        "rtmp://127.0.0.1:{port}/",
        "srt://127.0.0.1:{port}",
        "ftp://127.0.0.1:{port}/",
        "gopher://127.0.0.1:{port}/",
        "httpproxy://127.0.0.1:{port}/",
        "tls://127.0.0.1:{port}",
        "rtp://127.0.0.1:{port}",
        "sftp://127.0.0.1:{port}/",
        "ipfs://x",
        "lavfi",
        "lavfi:testsrc",
        "testsrc=size=64x64",
        "movie={secret}",
        "x11grab",
        ":0.0",
        "/dev/fb0",
        "/dev/stdin",
        "/dev/fd/0",
        "/proc/self/fd/0",
        "/proc/self/cwd/../secret/secret.ts",
        "/proc/self/root{secret}",
        "../secret/secret.ts",
        "{media}/../secret/secret.ts",
        "{media}/{secret}",
        "file://{media}/%2e%2e/secret/secret.ts",
        "file://{media}/..%2fsecret%2fsecret.ts",
        "~root/secret.ts",
        "{media}/a.ts\0{secret}",
        "{media}/a.ts\n{secret}",
        "http://127.0.0.1\r\n:{port}/",
        "ht\ntp://127.0.0.1:{port}/",
        "rtsp://127.0.0.1:{port}/\r\nSET x y\r\n",
        "rtsp://127.0.0.1:{port}/a\nb",
        "tcp://127.0.0.1:{port}\t",
        "tcp://127.0.0.1:{port}?listen",
        "tcp://127.0.0.1:{port}/#?listen=1",
    ],
)  # fmt: skip
def test_no_notation_of_ffmpegs_leads_out_of_the_media_folder(
    text: str, secret: Path, media: Path, forbidden: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(media)
    with pytest.raises(SourceError) as caught:
        frames_of(filled(text, secret, forbidden).decode().replace("{media}", str(media)), media)
    assert str(secret.parent) not in caught.value.detail


def test_a_tcp_source_opens_no_port_here(media: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SourceError, match="tcp://host:port"):
        parse_source(f"tcp://0.0.0.0:{port}?listen", (media,))


def test_a_file_of_a_strange_name_is_just_a_file(media: Path) -> None:
    for name in ("concat:a.avi", "a|b.avi", "a\nb.avi", "%03d.avi", "-i.avi", "a b;c.avi", "ä.avi"):
        shutil.move(save(media / "a.avi"), media / name)
        assert frames_of(media / name, media) == FRAMES


# Containers that refer to other files


def _box(data: bytes, *names: bytes) -> list[int]:
    """Where each box begins, the next one in the one before."""
    begins, at = [], 0
    for name in names:
        while True:
            size, kind = struct.unpack_from(">I4s", data, at)
            if kind == name:
                break
            at += size
        begins.append(at)
        at += 8
    return begins


def _alias(path: Path) -> bytes:
    """A reference of Mac OS's to a file. FFmpeg takes what fills up an odd path for a "/": this one is even."""
    target = os.fsencode(path)
    assert len(target) % 2 == 0
    head = struct.pack(">4xHHHB27s4x2s6xB63s16xhh16x", 0, 2, 0, 4, b"disk", b"H+", 1, b"x", -1, -1)
    return head + struct.pack(">hH", 2, len(target)) + target + b"\xff\xff\0\0"


def outside(movie: bytes, path: Path) -> bytes:
    """The movie without its frames, which are in the file at ``path``."""
    data = bytearray(movie)
    *parents, at = _box(data, b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    alias = _alias(path)
    reference = struct.pack(">I4s4xII4s4x", 28 + len(alias), b"dref", 1, 12 + len(alias), b"alis") + alias
    (size,) = struct.unpack_from(">I", data, at)
    data[at : at + size] = reference
    for parent in parents:
        struct.pack_into(">I", data, parent, struct.unpack_from(">I", data, parent)[0] + len(reference) - size)
    (frames,) = _box(data, b"mdat")
    (size,) = struct.unpack_from(">I", data, frames)
    data[frames + 8 : frames + size] = bytes(size - 8)
    return bytes(data)


def test_a_movie_whose_frames_are_in_another_file_is_not_shown(secret: Path, media: Path) -> None:
    movie = save(secret.with_name("x" * (1 + len(os.fsencode(secret.parent)) % 2) + ".mov"), "mjpeg")
    (media / "a.mov").write_bytes(outside(movie.read_bytes(), movie))
    willing = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(media / "a.mov"), options=willing) as container:
        assert len(list(container.decode(video=0))) == FRAMES  # it does lead there
    with pytest.raises(SourceError):
        frames_of(media / "a.mov", media)


# Links


def test_a_link_out_of_the_folder_is_not_followed(secret: Path, media: Path) -> None:
    (media / "file.ts").symlink_to(secret)
    (media / "folder").symlink_to(secret.parent)
    (media / "chain").symlink_to(media / "folder")
    for path in ("file.ts", "folder/secret.ts", "chain/secret.ts", "folder", "chain"):
        with pytest.raises(SourceError, match="SERVE_APP_MEDIA_DIRS"):
            parse_source(str(media / path), (media,))


def test_a_link_within_the_folder_is_followed(media: Path) -> None:
    save(media / "a.avi")
    (media / "b.avi").symlink_to("a.avi")
    assert frames_of(media / "b.avi", media) == FRAMES


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_is_put_in_a_files_place_later_is_not_followed(swapped: str, secret: Path, media: Path) -> None:
    (media / "deep").mkdir()
    shutil.copy(secret, media / "deep/secret.ts")
    source = parse_source(str(media / "deep/secret.ts"), (media,))
    if swapped == "file":
        (media / "deep/secret.ts").unlink()
        (media / "deep/secret.ts").symlink_to(secret)
    else:
        (media / "deep").rename(media / "before")
        (media / "deep").symlink_to(secret.parent)
    with pytest.raises(SourceError, match="SERVE_APP_MEDIA_DIRS"), open_video(source, max_pixels=1_000_000):
        pass


def test_links_that_change_all_the_time_never_lead_out(secret: Path, media: Path) -> None:
    """Frames of the secret video are of another size."""
    path, mine = save(media / "a.ts", "mpeg2video", 96), media / "mine.ts"
    source = parse_source(str(path), (media,))
    shutil.copy(path, mine)
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for target in (secret, mine):
                (media / "link").symlink_to(target)
                (media / "link").replace(path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    shown, refused = set(), 0
    try:
        while not (shown and refused) or refused < 100:
            try:
                with open_video(source, max_pixels=1_000_000) as opened:
                    shown |= {pixels().shape for pixels, _ in opened}
            except SourceError:
                refused += 1
    finally:
        is_over.set()
        swapping.join()
    assert shown == {(96, 96, 3)}
    assert refused > 0


def test_a_folders_pictures_are_its_own(secret: Path, media: Path) -> None:
    picture = secret.with_suffix(".png")
    av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), "rgb24").to_image().save(picture)
    (media / "pictures").mkdir()
    shutil.copy(picture, media / "pictures/0.png")
    (media / "pictures/1.png").symlink_to(picture)
    os.mkfifo(media / "pictures/2.png")
    source = parse_source(str(media / "pictures"), (media,))
    with open_video(source, max_pixels=1_000_000) as opened:
        first, linked, pipe = (pixels for pixels, _ in opened)
        assert first().shape == (8, 8, 3)
        for other in (linked, pipe):
            with pytest.raises(video.Undecodable):
                other()


def test_a_pipe_in_a_files_place_is_not_waited_for(media: Path) -> None:
    source = parse_source(str(save(media / "a.avi")), (media,))
    (media / "a.avi").unlink()
    os.mkfifo(media / "a.avi")
    with pytest.raises(SourceError), open_video(source, max_pixels=1_000_000):
        pass


# Servers that answer with what leads elsewhere


@pytest.fixture
def answering(secret: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server's url, and what it answers by path: a body, or where it redirects to."""
    answers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, b"")
            if self.path.startswith("/to"):
                self.send_response(302)
                self.send_header("Location", body.decode())
                body = b""
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("name", LISTS)
def test_a_servers_playlist_leads_to_no_file_and_by_no_other_protocol(
    name: str, secret: Path, forbidden: Trap, answering: tuple[str, dict[str, bytes]]
) -> None:
    url, answers = answering
    answers["/a.m3u8"] = filled(LISTS[name], secret, forbidden)
    with pytest.raises(SourceError):
        frames_of(f"{url}/a.m3u8")


def test_a_servers_playlist_of_its_own_is_played(secret: Path, answering: tuple[str, dict[str, bytes]]) -> None:
    url, answers = answering
    answers |= {"/a.m3u8": playlist("a.ts").encode(), "/a.ts": secret.read_bytes(), "/to": b"/a.ts"}
    assert frames_of(f"{url}/a.m3u8") == frames_of(f"{url}/to") == FRAMES


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize(
    "location",
    [
        "file://{secret}", "file:{secret}", "concat:{secret}", "subfile,,start,0,end,0,,:{secret}", "async:{secret}",
        "crypto+file://{secret}", "data:video/mp2t;base64,AAAA", "unix:{secret}", "fd:", "pipe:0",
        "rtsp://127.0.0.1:{port}/", "rtp://127.0.0.1:{port}", "tcp://127.0.0.1:{port}", "udp://127.0.0.1:{port}",
        "ftp://127.0.0.1:{port}/", "gopher://127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "tls://127.0.0.1:{port}",
    ],
)  # fmt: skip
def test_a_servers_redirect_leads_to_no_file_and_by_no_other_protocol(
    location: str, secret: Path, forbidden: Trap, answering: tuple[str, dict[str, bytes]]
) -> None:
    url, answers = answering
    answers["/to"] = filled(location, secret, forbidden)
    with pytest.raises(SourceError):
        frames_of(f"{url}/to")


class RtspServer:
    """A camera that describes itself as a test says, and hangs up when it should play."""

    def __init__(self, description: bytes, redirect: bytes) -> None:
        self._description, self._redirect = description, redirect
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked: list[str] = []

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                for line in stream:
                    name, _, rest = line.decode().partition(" ")
                    if rest.rstrip().endswith("RTSP/1.0"):
                        self.asked.append(name)
                    elif name == "CSeq:":
                        number = rest.strip()
                    elif self.asked[-1] == "PLAY":
                        break
                    elif not line.strip():
                        stream.write(self._answer(self.asked[-1], number))
                        stream.flush()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self, method: str, number: str) -> bytes:
        status, headers, body = 200, "Session: 1\r\n", b""
        if method == "DESCRIBE" and self._redirect:
            status, headers = 302, f"Location: {self._redirect.decode()}\r\n"
        elif method == "DESCRIBE":
            headers, body = "Content-Type: application/sdp\r\n", self._description
        elif method == "SETUP":
            headers += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;destination=127.0.0.1\r\n"
        return (
            f"RTSP/1.0 {status} Said\r\nCSeq: {number}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )


@pytest.mark.parametrize(
    ("description", "redirect"),
    [
        pytest.param(SDP, "", id="another address and port"),
        pytest.param(SDP.replace("rtsp://127.0.0.1:{port}/", "file://{secret}"), "", id="a file"),
        pytest.param(SDP.replace("rtsp:", "tcp:"), "", id="another protocol"),
        pytest.param(SDP.replace("t=0 0\n", "t=0 0\na=control:rtsp://127.0.0.1:{port}/\n"), "", id="another base"),
        pytest.param("", "file://{secret}", id="redirected to a file"),
        pytest.param("", "http://127.0.0.1:{port}/", id="redirected to http"),
        pytest.param("", "tcp://127.0.0.1:{port}/", id="redirected to tcp"),
        pytest.param("", "concat:{secret}", id="redirected to concat"),
    ],
)
def test_a_camera_leads_to_nobody_else(description: str, redirect: str, secret: Path, forbidden: Trap) -> None:
    server = RtspServer(filled(description, secret, forbidden), filled(redirect, secret, forbidden))
    serving = threading.Thread(target=server.serve)
    serving.start()
    try:
        with pytest.raises(SourceError):
            frames_of(f"rtsp://127.0.0.1:{server.port}/")
    finally:
        server.close()
        serving.join()
    assert "DESCRIBE" in server.asked
    assert ("PLAY" in server.asked) == bool(description)

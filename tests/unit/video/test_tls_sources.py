"""Sources over TLS, and the certificate authorities that Sightline trusts."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest

from scripts.trials.field.videos.other_cases import refuses_by_rtsp
from scripts.trials.listener import listening
from serve_app.errors import SourceError, SourceUntrusted
from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.videos import save_video

FRAMES = 5


def make_certificate(path: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1 to ``path``, and its key to another file in the same folder."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = [openssl, "req", *kind, *names, "-out", str(path), "-keyout", str(path.with_suffix(".key"))]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


class Server(ThreadingHTTPServer):
    """An HTTPS server for the files of a folder. It records the requested paths."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Print no error when a client that does not trust the certificate hangs up."""


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", f"https://{self.path.removeprefix('/to/')}")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    """Yield a function that starts an HTTPS server for ``tmp_path`` with a certificate."""
    servers = []

    def start(certificate: Path) -> Server:
        server = Server(tmp_path, certificate)
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path / "certificate.pem")


def frames_of(uri: str, *, tls_verify: bool = True) -> int:
    with open_video(parse_source(uri, (), tls_verify=tls_verify), max_pixels=1_000_000) as video:
        return len(list(video))


def test_an_untrusted_certificate_is_refused_unless_verification_is_off(
    serve: Callable[[Path], Server], certificate: Path, tmp_path: Path
) -> None:
    save_video(tmp_path / "a.avi", frames=FRAMES, fps=50)
    server = serve(certificate)
    with pytest.raises(SourceUntrusted) as refusal:
        frames_of(f"https://me:hunter2@{server.address}/a.avi")
    assert refusal.value.detail == (
        f"https://{server.address}/… has a certificate that is not trusted (self-signed certificate); add the "
        "certificate's authority to the file that SSL_CERT_FILE names, or set tls_verify to false"
    )
    assert server.asked == []  # no request means that no password was sent
    assert frames_of(f"https://me:hunter2@{server.address}/a.avi", tls_verify=False) == FRAMES


def test_the_environment_can_name_a_private_authority(
    serve: Callable[[Path], Server], certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_video(tmp_path / "a.avi", frames=FRAMES, fps=50)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(certificate)
    assert frames_of(f"https://{server.address}/a.avi") == FRAMES
    with pytest.raises(SourceUntrusted, match="mismatch"):
        frames_of(f"https://localhost:{server.server_port}/a.avi")


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_camera_gets_no_request_before_it_is_trusted(
    is_trusted: bool, serve: Callable[[Path], Server], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(certificate)  # an HTTPS server, so it answers RTSP with an error
    with pytest.raises(SourceError) as refusal:
        frames_of(f"rtsps://{server.address}/live")
    assert isinstance(refusal.value, SourceUntrusted) != is_trusted
    with pytest.raises(SourceError, match="cannot be read as video"):
        frames_of(f"rtsps://{server.address}/live", tls_verify=False)


def test_a_camera_over_tls_is_reached_without_the_environments_proxy(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    refuse = refuses_by_rtsp("404 Nope")

    def answer(connection: socket.socket) -> None:
        with tls.wrap_socket(connection, server_side=True) as secured:
            refuse(secured)

    with listening(answer) as port, pytest.raises(SourceError, match="404 Not Found"):
        frames_of(f"rtsps://127.0.0.1:{port}/live", tls_verify=False)
    assert os.environ["no_proxy"] == ""


@pytest.mark.parametrize("tls_verify", [True, False])
@pytest.mark.parametrize("scheme", ["https", "rtsps"])
def test_a_port_without_tls_is_reported(scheme: str, tls_verify: bool) -> None:
    with (
        listening(lambda connection: connection.sendall(b"RTSP/1.0 400 Bad Request\r\n\r\n")) as port,
        pytest.raises(SourceError, match=r"TLS failed \(wrong version number\)"),
    ):
        frames_of(f"{scheme}://127.0.0.1:{port}/live", tls_verify=tls_verify)


def test_a_redirect_to_an_untrusted_server_is_not_followed(
    serve: Callable[[Path], Server], certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_video(tmp_path / "a.avi", frames=FRAMES, fps=50)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    trusted, stranger = serve(certificate), serve(make_certificate(tmp_path / "stranger.pem"))
    assert frames_of(f"https://{trusted.address}/to/{trusted.address}/a.avi") == FRAMES
    with pytest.raises(SourceError):
        frames_of(f"https://{trusted.address}/to/{stranger.address}/a.avi")
    assert stranger.asked == []


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "127.0.0.1:1", "*"])
def test_a_host_that_cannot_be_reached_is_refused(host: str) -> None:
    for scheme in ("https", "rtsps"):
        with pytest.raises(SourceError):
            frames_of(f"{scheme}://{host}/a.avi")


def test_without_a_readable_authority_file_no_server_is_trusted(
    serve: Callable[[Path], Server], certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "broken.pem"))
    server = serve(certificate)
    with pytest.raises(SourceError):
        frames_of(f"https://{server.address}/a.avi")
    assert server.asked == []


def test_each_segment_of_a_playlist_must_come_from_a_trusted_server(
    serve: Callable[[Path], Server], certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with av.open(str(tmp_path / "a.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    trusted, stranger = serve(certificate), serve(make_certificate(tmp_path / "stranger.pem"))
    for name, server in (("own", trusted), ("other", stranger)):
        segment = f"https://{server.address}/a.ts"
        (tmp_path / f"{name}.m3u8").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{segment}\n#EXT-X-ENDLIST\n"
        )
    assert frames_of(f"https://{trusted.address}/own.m3u8") == FRAMES
    with pytest.raises(SourceUntrusted):
        frames_of(f"https://{trusted.address}/other.m3u8")
    assert (trusted.asked, stranger.asked) == (["/own.m3u8", "/a.ts", "/other.m3u8"], [])
    assert frames_of(f"https://{trusted.address}/other.m3u8", tls_verify=False) == FRAMES

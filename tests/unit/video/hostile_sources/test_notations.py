"""FFmpeg's special notations for sources, with which a client could try to open other files or servers."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from serve_app.errors import SourceError
from serve_app.video.source import parse_source
from tests.support.hostile_sources import FRAMES, filled, frames_of, save
from tests.support.traps import Trap


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
def test_no_ffmpeg_notation_leads_out_of_the_media_folder(
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


def test_a_file_with_a_strange_name_is_only_a_file(media: Path) -> None:
    for name in ("concat:a.avi", "a|b.avi", "a\nb.avi", "%03d.avi", "-i.avi", "a b;c.avi", "ä.avi"):
        shutil.move(save(media / "a.avi"), media / name)
        assert frames_of(media / name, media) == FRAMES

"""Hostile files and responses that try to make FFmpeg read a secret video or connect to a forbidden port."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from serve_app.video.source import parse_source
from serve_app.video.video import open_video
from tests.support.traps import Trap

FRAMES = 5


def save(path: Path, codec: str = "mpeg4", side_px: int = 64) -> Path:
    """Save a video with ``FRAMES`` frames of noise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = side_px
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(FRAMES):
            picture = np.random.default_rng(number).integers(0, 255, (side_px, side_px, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def frames_of(uri: Path | str, *media_dirs: Path) -> int:
    """Open a source, and return the number of its frames."""
    with open_video(parse_source(str(uri), media_dirs), max_pixels=1_000_000) as opened:
        return len([pixels() for pixels, _ in opened])


def playlist(segment: str, *lines: str) -> str:
    """Return an HLS playlist with one segment."""
    head = ["#EXTM3U", "#EXT-X-VERSION:5", "#EXT-X-TARGETDURATION:1", *lines]
    return "\n".join([*head, "#EXTINF:0.2,", segment, "#EXT-X-ENDLIST", ""])


def master(variant: str) -> str:
    """Return an HLS playlist that refers to another playlist."""
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
# Hostile files and responses. ``filled`` replaces {secret} with a video's path, and {port} with a forbidden port.
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
    """Replace {secret} with the path of the secret video, and {port} with the forbidden port."""
    return text.replace("{secret}", str(secret)).replace("{port}", str(forbidden.port)).encode()

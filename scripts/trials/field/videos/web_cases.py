"""Cases of cameras and media servers over HTTP."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2

from scripts.trials.field.case import Case
from scripts.trials.field.videos import clips
from scripts.trials.field.videos.hls_cases import HLS_CASES
from scripts.trials.field.videos.reading import MAX_PIXELS, frames_of, refusal_of, refuses
from scripts.trials.field.videos.servers import (
    SHOTS,
    Answer,
    Answers,
    asks_for_credentials,
    sends,
    sends_parts,
    serving,
    streams,
)
from scripts.trials.field.videos.servers import (
    answers as answered,
)
from serve_app.errors import SourceError
from serve_app.video.source import parse_source
from serve_app.video.video import open_video

_JPEGS, _HLS, _SNAPSHOTS, _REFUSALS = "JPEG after JPEG", "HLS", "a camera's snapshot address", "what a server refuses"
_CLIPS = "clips over HTTP"
_SHADES = list(range(0, 250, 10))[:5]  # the grey levels of the first five images


def _case(
    kind: str,
    member: str,
    answers: Answers,
    problem: Callable[[str], str | None],
    protocol: str = "HTTP/1.1",
) -> Case:
    def with_a_server(_: str) -> str | None:
        with serving(answers() if callable(answers) else answers, protocol) as server:
            try:
                return problem(server.url)
            except SourceError as exc:
                return f"it is refused: {exc.detail}"

    return Case(kind, member, with_a_server)


def _shows_every_shot(url: str) -> str | None:
    found = [10 * round(pixels.mean() / 10) for pixels in frames_of(f"{url}/cam", len(_SHADES))]
    return None if found == _SHADES else f"the greys of the first images are {found}, and should be {_SHADES}"


def _plain(jpeg: bytes) -> bytes:
    return jpeg


def _padded(jpeg: bytes) -> bytes:
    return jpeg + bytes(100)


def _part(
    boundary: bytes = b"--frame", length: int | None = 0, end: bytes = b"\r\n", more: bytes = b""
) -> Callable[[bytes], bytes]:
    """Return a function that formats a JPEG as a multipart part, as some cameras do.

    ``length`` is added to the correct Content-Length. If ``length`` is None, the header is left out.
    """

    def piece(jpeg: bytes) -> bytes:
        lines = [boundary, b"Content-Type: image/jpeg", *([more] if more else [])]
        if length is not None:
            lines.append(b"Content-Length: %d" % (len(jpeg) + length))
        return end.join([*lines, b"", jpeg, b""])

    return piece


_MIXED = "multipart/x-mixed-replace"
_JPEG_CASES = [
    ("no boundaries: video/x-motion-jpeg", streams(_plain, Content_Type="video/x-motion-jpeg")),
    ("no boundaries: image/jpeg", streams(_plain, Content_Type="image/jpeg")),
    ("no boundaries: application/octet-stream", streams(_plain, Content_Type="application/octet-stream")),
    ("no boundaries: text/html", streams(_plain, Content_Type="text/html")),
    ("no boundaries and no type", streams(_plain)),
    ("no boundaries, in chunks", streams(_plain, is_chunked=True, Content_Type="video/x-motion-jpeg")),
    ("no boundaries, zeros between", streams(_padded, Content_Type="video/x-motion-jpeg")),
    ("no boundaries, although the type is multipart", streams(_plain, Content_Type=f"{_MIXED}; boundary=frame")),
    ("a boundary", streams(_part(), Content_Type=f"{_MIXED}; boundary=frame")),
    ("a boundary in quotes", streams(_part(), Content_Type=f'{_MIXED}; boundary="frame"')),
    ("a boundary with its dashes", streams(_part(), Content_Type=f"{_MIXED};boundary=--frame")),
    ("a boundary with its dashes in quotes", streams(_part(), Content_Type=f'{_MIXED};boundary="--frame"')),
    ("a boundary that the header does not name", streams(_part(), Content_Type=_MIXED)),
    ("a boundary other than the one in the header", streams(_part(), Content_Type=f"{_MIXED}; boundary=other")),
    ("boundaries, although the type is text/plain", streams(_part(), Content_Type="text/plain")),
    ("boundaries, although the type is text/html", streams(_part(), Content_Type="text/html")),
    ("parts without a length", streams(_part(length=None), Content_Type=f"{_MIXED}; boundary=frame")),
    ("parts whose length is too large", streams(_part(length=7), Content_Type=f"{_MIXED}; boundary=frame")),
    ("parts whose length is too small", streams(_part(length=-7), Content_Type=f"{_MIXED}; boundary=frame")),
    ("lines that end without CR", streams(_part(end=b"\n"), Content_Type=f"{_MIXED}; boundary=frame")),
    ("boundaries without dashes", streams(_part(b"frame"), Content_Type=f"{_MIXED}; boundary=frame")),
    ("further headers in each part", streams(_part(more=b"X-Time: 1"), Content_Type=f"{_MIXED}; boundary=frame")),
]


def _is_polled(credentials: str = "") -> Callable[[str], str | None]:
    def problem(url: str) -> str | None:
        uri = url.replace("//", f"//{credentials}") + "/cam"
        with open_video(parse_source(uri, ()), max_pixels=MAX_PIXELS) as video:
            greys = [round(pixels().mean()) for pixels, _ in itertools.islice(video, 3)]
        if video.pull_interval_s != 1.0 or video.has_end:
            return f"it is polled every {video.pull_interval_s} s, and should be polled every second and never end"
        return None if all(abs(grey - 50) < 2 for grey in greys) else f"the greys are {greys}, and should be 50"

    return problem


def _picture(kind: str) -> bytes:
    grey = clips.picture()
    grey[:] = 50
    return bytes(cv2.imencode(kind, grey)[1])


def _unchanged() -> Mapping[str, Answer]:
    """Return an answer with an ETag. A client that wrongly sends If-None-Match gets 304."""
    first = sends(SHOTS[5], Content_Type="image/jpeg", ETag='"1"', Cache_Control="max-age=86400")
    return {"/cam": lambda handler: (sends(b"", 304) if "If-None-Match" in handler.headers else first)(handler)}


_SHOT = sends(SHOTS[5], Content_Type="image/jpeg")
_SNAPSHOT_CASES: list[tuple[str, Answers, str]] = [
    ("a JPEG", {"/cam": _SHOT}, ""),
    ("a JPEG without a length", {"/cam": sends(SHOTS[5], has_length=False, Content_Type="image/jpeg")}, ""),
    ("a JPEG without a type", {"/cam": sends(SHOTS[5])}, ""),
    ("a JPEG called text/html", {"/cam": sends(SHOTS[5], Content_Type="text/html")}, ""),
    ("a JPEG with bytes after it", {"/cam": sends(SHOTS[5] + SHOTS[9], Content_Type="image/jpeg")}, ""),
    ("a PNG", {"/cam": sends(_picture(".png"), Content_Type="image/png")}, ""),
    ("a WebP without a type", {"/cam": sends(_picture(".webp"))}, ""),
    ("a BMP", {"/cam": sends(_picture(".bmp"), Content_Type="image/bmp")}, ""),
    ("a BMP without a type", {"/cam": sends(_picture(".bmp"))}, ""),
    ("an ETag and a day of caching", _unchanged, ""),
    ("Basic credentials", {"/cam": asks_for_credentials("Basic", _SHOT)}, "admin:p%40ss%2Fword@"),
    ("Digest credentials", {"/cam": asks_for_credentials("Digest", _SHOT)}, "admin:p%40ss%2Fword@"),
    ("Digest credentials without a qop", {"/cam": asks_for_credentials("old", _SHOT)}, "admin:p%40ss%2Fword@"),
    ("Digest credentials, or Basic", {"/cam": asks_for_credentials("both", _SHOT)}, "admin:p%40ss%2Fword@"),
    ("a redirect", {"/cam": sends(b"", 302, Location="/to?x=1"), "/to": _SHOT}, ""),
]  # fmt: skip

_REFUSAL_CASES = [
    ("no credentials", {"/cam": asks_for_credentials("Digest", _SHOT)}, ["401 Unauthorized", "user:password@"], ""),
    ("wrong credentials", {"/cam": asks_for_credentials("Digest", _SHOT)}, ["401", "refuses these"], "admin:x@"),
    ("a path that does not exist", {}, ["404 Not Found", "path"], ""),
    ("403", {"/cam": sends(b"", 403)}, ["403 Forbidden"], ""),
    ("500", {"/cam": sends(b"", 500)}, ["500 Internal Server Error"], ""),
    ("503", {"/cam": sends(b"", 503)}, ["503 Service Unavailable", "overloaded"], ""),
    ("a page to log in", {"/cam": sends(b"\n<!DOCTYPE html><html>", Content_Type="text/html")}, ["web page"], ""),
    ("DASH", {"/cam": sends(b'<?xml version="1.0"?><MPD/>', Content_Type="application/dash+xml")}, ["DASH"], ""),
    ("a redirect to https", {"/cam": sends(b"", 302, Location="https://127.0.0.1/")}, ["https://", "source.uri"], ""),
    ("a redirect loop", {"/cam": sends(b"", 302, Location="/cam")}, ["redirects more than"], ""),
    ("a compressed answer", {"/cam": sends(b"", Content_Encoding="gzip")}, ["compresses"], ""),
]  # fmt: skip


def _clip(codec: str, ending: str, has_ranges: bool = False, **headers: str) -> Callable[[], Mapping[str, Answer]]:
    def answers() -> Mapping[str, Answer]:
        with TemporaryDirectory() as folder:
            container_format = ending if ending in {"h264", "mjpeg"} else None
            data = clips.save(Path(folder) / f"a.{ending}", codec, container_format=container_format).read_bytes()
        return {"/a.m3u8": sends_parts(data, **headers) if has_ranges else answered(data, headers)}

    return answers


def _is_a_clip(url: str) -> str | None:
    with open_video(parse_source(f"{url}/a.m3u8", ()), max_pixels=MAX_PIXELS) as video:
        found = len(list(video)), video.has_end, video.pull_interval_s
    right = clips.FRAMES, True, None
    return (
        None
        if found == right
        else f"the number of frames, has_end and pull_interval_s are {found}, and should be {right}"
    )


_CLIP_CASES = [
    ("MP4 with its index at its end", _clip("libx264", "mp4", True, Accept_Ranges="bytes")),
    ("MP4 with its index at its end, without Accept-Ranges", _clip("libx264", "mp4", True)),
    ("MP4 called image/jpeg", _clip("libx264", "mp4", True, Content_Type="image/jpeg")),
    ("Matroska without a type", _clip("libx264", "mkv")),
    ("AVI called text/plain", _clip("mpeg4", "avi", Content_Type="text/plain")),
    ("MPEG-TS called image/png", _clip("libx264", "ts", Content_Type="image/png")),
    ("a raw H.264 dump", _clip("libx264", "h264", Content_Type="application/octet-stream")),
    ("JPEG after JPEG with a length", _clip("mjpeg", "mjpeg", Content_Type="video/x-motion-jpeg")),
]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _a_camera_on_loopback_bypasses_the_proxy(url: str) -> str | None:
    with _environment(http_proxy="http://127.0.0.1:9", no_proxy=""):
        return _shows_every_shot(url)


def _an_unreachable_proxy_is_named(_: str) -> str | None:
    with _environment(http_proxy="http://me:secret@127.0.0.1:9", no_proxy=""):
        said = refusal_of("http://192.0.2.1.invalid/cam")
    right = "the proxy http://127.0.0.1:9" in said and "Connection refused" in said and "secret" not in said
    return None if right else f"the refusal does not name the proxy and its error: {said!r}"


CASES: tuple[Case, ...] = (
    *(_case(_JPEGS, member, {"/cam": answer}, _shows_every_shot) for member, answer in _JPEG_CASES),
    _case(_JPEGS, "no boundaries, by HTTP/1.0", {"/cam": _JPEG_CASES[0][1]}, _shows_every_shot, "HTTP/1.0"),
    *(_case(_HLS, member, answers, problem) for member, answers, problem in HLS_CASES),
    *(_case(_CLIPS, member, answers, _is_a_clip) for member, answers in _CLIP_CASES),
    *(_case(_SNAPSHOTS, member, answers, _is_polled(given)) for member, answers, given in _SNAPSHOT_CASES),
    *(
        _case(_REFUSALS, member, answers, refuses("/cam", *words, credentials=given))
        for member, answers, words, given in _REFUSAL_CASES
    ),
    _case("proxies", "a camera on loopback", {"/cam": _JPEG_CASES[0][1]}, _a_camera_on_loopback_bypasses_the_proxy),
    _case("proxies", "a proxy that refuses", {}, _an_unreachable_proxy_is_named),
)

"""Cases of cameras over RTSP and TCP, and of folders of images."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from scripts.trials.field.case import Case
from scripts.trials.field.videos import clips
from scripts.trials.field.videos.reading import MAX_PIXELS, file_case, frames_of, refusal_of
from scripts.trials.field.videos.servers import SHOTS
from scripts.trials.listener import listening
from serve_app.errors import ServeAppError, SourceError
from serve_app.video.source import parse_source
from serve_app.video.video import open_video

_FOLDERS, _RTSP, _TCP = "folders", "what a camera refuses over RTSP", "video over TCP"
_SHADES = list(range(0, 250, 10))[:5]  # the grey levels of the first five images
_PAUSE_S = 0.01


def refuses_by_rtsp(status: str, method: str = "DESCRIBE") -> Callable[[socket.socket], None]:
    """Return a handler for a camera that answers ``method`` with ``status`` and accepts all other methods."""
    description = b"v=0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:1\r\n"

    def answer(connection: socket.socket) -> None:
        with connection.makefile("rwb") as stream:
            while line := stream.readline().decode():
                asked, number = line.split()[0], "0"
                while header := stream.readline().decode().strip():
                    if header.lower().startswith("cseq:"):
                        number = header[5:].strip()
                said = status if asked == method else "200 OK"
                body = description if asked == "DESCRIBE" and said == "200 OK" else b""
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n" if body else ""
                if asked == "SETUP":
                    more = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                stream.write(f"RTSP/1.0 {said}\r\nCSeq: {number}\r\n{more}\r\n".encode() + body)
                stream.flush()

    return answer


def _rtsp_case(status: str, words: list[str], method: str = "DESCRIBE") -> Case:
    def problem(_: str) -> str | None:
        with listening(refuses_by_rtsp(status, method)) as port:
            said = refusal_of(f"rtsp://127.0.0.1:{port}/live")
        missing = [word for word in words if word not in said]
        return f"the refusal lacks {missing}: {said!r}" if missing else None

    return Case(_RTSP, f"{status} to {method}", problem)


_RTSP_CASES = [
    _rtsp_case("400 Nope", ["400 Bad Request"]),
    _rtsp_case("401 Nope", ["401 Unauthorized", "user:password@"]),
    _rtsp_case("403 Nope", ["403 Forbidden"]),
    _rtsp_case("404 Stream hunter2 Not Found", ["404 Not Found", "path"]),
    _rtsp_case("453 Nope", ["453 Not Enough Bandwidth", "too many viewers"]),
    _rtsp_case("454 Nope", ["454 Session Not Found"], "SETUP"),
    _rtsp_case("461 Nope", ["461 Unsupported Transport", "TCP"], "SETUP"),
    _rtsp_case("500 Nope", ["500 Internal Server Error"]),
    _rtsp_case("503 Nope", ["503 Service Unavailable"], "PLAY"),
]


def _tcp_case(member: str, between: bytes) -> Case:
    def answer(connection: socket.socket) -> None:
        for shot in itertools.cycle(SHOTS):
            connection.sendall(shot + between)
            time.sleep(_PAUSE_S)

    def problem(_: str) -> str | None:
        with listening(answer) as port:
            found = [10 * round(pixels.mean() / 10) for pixels in frames_of(f"tcp://127.0.0.1:{port}", len(_SHADES))]
        return None if found == _SHADES else f"the greys of the images are {found}, and should be {_SHADES}"

    return Case(_TCP, member, problem)


def _clip_over_tcp(codec: str, container_format: str) -> Case:
    def problem(folder: Path) -> str | None:
        data = clips.save(folder / "a", codec, container_format=container_format).read_bytes()
        with listening(lambda connection: connection.sendall(data)) as port:
            found = len(frames_of(f"tcp://127.0.0.1:{port}"))
        return None if found == clips.FRAMES else f"it shows {found} frames, and should show {clips.FRAMES}"

    return file_case(_TCP, f"{codec} in {container_format}", problem)


def _is_accounted_for(names: list[str], kind: str, passed_over: int = 0) -> Callable[[Path], str | None]:
    """Return a function that checks that each file in ``names`` is shown or refused with a reason.

    The function writes the files in the format ``kind``. ``passed_over`` is the number of these files that are not
    images. The source must skip and count these files.
    """

    def problem(folder: Path) -> str | None:
        data = _picture(kind)
        for name in names:
            (folder / name).write_bytes(data)
        (folder / "notes.txt").write_text("no image")
        (folder / "z.png").write_bytes(_picture(".png"))
        with open_video(parse_source(str(folder), (folder,)), max_pixels=MAX_PIXELS) as video:
            found = [_verdict(pixels) for pixels, _ in video]
            counts = len(found), video.passed_over
        right = 1 + len(names) - passed_over, 1 + passed_over
        if counts != right:
            return f"the numbers of images and of other files are {counts}, and should be {right}"
        lost = [said for said in found if said == "lost"]
        return f"{len(lost)} images are neither shown nor refused" if lost else None

    return problem


def _picture(kind: str) -> bytes:
    if kind == ".gif":
        header = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00"
        return header + b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
    if kind == "resource fork":  # macOS writes these AppleDouble files to memory cards
        return b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(50)
    return bytes(cv2.imencode(kind, clips.picture())[1])


def _verdict(pixels: Callable[[], object]) -> str:
    try:
        return "shown" if pixels() is not None else "lost"
    except ServeAppError as exc:
        return exc.detail or "lost"


def _no_picture_at_all(folder: Path) -> str | None:
    (folder / "notes.txt").write_text("no image")
    try:
        with open_video(parse_source(str(folder), (folder,)), max_pixels=MAX_PIXELS):
            return "a folder without images is opened, and should be refused"
    except SourceError as exc:
        return None if "other kinds: 1" in exc.detail else f"the refusal does not count the other files: {exc.detail!r}"


_FOLDER_CASES = [
    ("names that end in .jfif, .jpe and .mpo", _is_accounted_for(["a.jfif", "b.jpe", "c.MPO"], ".jpg")),
    ("names that end in .JPG, .JPEG and .jpg~", _is_accounted_for(["a.JPG", "b.JPEG", "c.jpg~"], ".jpg")),
    ("names without an extension", _is_accounted_for(["IMG_0001", "IMG_0002"], ".jpg")),
    ("names that end in .gif", _is_accounted_for(["a.gif", "b.GIF"], ".gif")),
    ("names that end in .tif, .dib and .webp", _is_accounted_for(["a.tif", "b.dib", "c.webp"], ".webp")),
    ("names that end in .heic, .avif and .jp2", _is_accounted_for(["a.heic", "b.avif", "c.jp2"], ".png")),
    ("files that macOS adds to images", _is_accounted_for(["._a.jpg", "._b.png"], "resource fork", 2)),
]

CASES: tuple[Case, ...] = (
    *_RTSP_CASES,
    _tcp_case("JPEG after JPEG", b""),
    _tcp_case("JPEG after JPEG, zeros between", bytes(64)),
    _clip_over_tcp("libx264", "h264"),
    _clip_over_tcp("libx264", "mpegts"),
    _clip_over_tcp("libx265", "hevc"),
    *(file_case(_FOLDERS, member, problem) for member, problem in _FOLDER_CASES),
    file_case(_FOLDERS, "a folder without an image", _no_picture_at_all),
)

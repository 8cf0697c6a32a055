"""Cases of video files: cover art, display matrices and wrong time stamps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2

from scripts.trials.field.case import Case
from scripts.trials.field.videos import clips
from scripts.trials.field.videos.clips import FPS, FRAMES, HEIGHT_PX, ORIENTATIONS, WIDTH_PX
from scripts.trials.field.videos.reading import file_case, frames_of, refusal_of, times_of

Make = Callable[[Path], Path]
_COVERS, _MATRICES, _TIMES = "cover art and other tracks", "display matrices", "time stamps"
# A stream with max_fps=5 takes frames from a clip of FRAMES frames at FPS frames/s. These are the times of the taken
# frames, in seconds.
_TIMES_AT_5_FPS = [number / 5 for number in range(10)]


def _shows_the_video(make: Make, frames: int = FRAMES) -> Callable[[Path], str | None]:
    def problem(folder: Path) -> str | None:
        shown = frames_of(make(folder))
        found = len(shown), shown[0].shape[1], shown[0].shape[0]
        right = frames, WIDTH_PX, HEIGHT_PX
        return None if found == right else f"frames, width and height are {found}, and should be {right}"

    return problem


def _cover(first: bool, kind: str = ".jpg") -> Make:
    def make(folder: Path) -> Path:
        path = clips.save(folder / "a.mp4")
        cover = cv2.imencode(kind, clips.picture(200, 200))[1].tobytes()
        path.write_bytes(clips.with_cover(path.read_bytes(), cover, first=first, kind=14 if kind == ".png" else 13))
        return path

    return make


def _tracks(ending: str, *sizes: tuple[int, int, int], default: int = 0) -> Make:
    return lambda folder: clips.save_tracks(folder / f"a.{ending}", *sizes, default=default)


def _of_unknown_codec(make: Make) -> Make:
    """Return a function that makes the same file, but with an unknown codec in the first track."""

    def made(folder: Path) -> Path:
        path = make(folder)
        data = path.read_bytes()
        at = data.index(b"avc1", data.index(b"stsd", data.rindex(b"moov")))
        path.write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
        return path

    return made


def _only_an_unknown_codec(folder: Path) -> str | None:
    said = refusal_of(_of_unknown_codec(lambda folder: clips.save(folder / "a.mp4"))(folder))
    return None if "codec that is not supported" in said else f"the refusal does not name an unknown codec: {said!r}"


def _attachment(folder: Path) -> Path:
    with av.open(str(folder / "a.mkv"), "w") as container:
        container.add_attachment("cover.jpg", "image/jpeg", clips.jpeg(200, 200))
        clips.add_track(container, "libx264", FRAMES, FPS, (WIDTH_PX, HEIGHT_PX))
    return folder / "a.mkv"


def _only_a_cover(folder: Path) -> str | None:
    path = clips.save(folder / "a.mp4", frames=1)
    data = clips.with_cover(path.read_bytes(), clips.jpeg(200, 200), first=False)
    at = data.index(b"hdlr", data.rindex(b"moov")) + 12
    path.write_bytes(data[:at] + b"soun" + data[at + 4 :])  # declare the only track as sound
    said = refusal_of(path)
    return None if "only still images" in said else f"the refusal does not say that there is only a cover: {said!r}"


_WANTED, _SMALL = (WIDTH_PX, HEIGHT_PX, FRAMES), (64, 32, FRAMES)
_COVER_CASES = [
    ("a cover before the tracks of an MP4", _cover(first=True)),
    ("a cover after the tracks of an MP4", _cover(first=False)),
    ("a cover that is a PNG", _cover(first=True, kind=".png")),
    ("a cover attached to a Matroska file", _attachment),
    ("a track of one JPEG before the video", _tracks("mp4", (200, 200, 1), _WANTED)),
    ("a track of one JPEG before the video, in MOV", _tracks("mov", (200, 200, 1), _WANTED)),
    ("a small track before the default one", _tracks("mp4", _SMALL, _WANTED, default=1)),
    ("a small track after the default one", _tracks("mkv", _WANTED, _SMALL, default=0)),
    ("a track of an unknown codec before the video", _of_unknown_codec(_tracks("mp4", _WANTED, _WANTED))),
    ("a large track that is not the default", _tracks("mkv", (256, 128, FRAMES), _WANTED, default=1)),
]


def _is_upright(make: Make, right: tuple[str, ...]) -> Callable[[Path], str | None]:
    def problem(folder: Path) -> str | None:
        found = clips.corners(frames_of(make(folder), 1)[0])
        return None if found == right else f"the corners are {found}, and should be {right}"

    return problem


def _turned(ending: str, codec: str, matrix: clips.Matrix) -> Make:
    def make(folder: Path) -> Path:
        path = clips.save(folder / f"a.{ending}", codec, frames=2)
        path.write_bytes(clips.with_matrix(path.read_bytes(), matrix))
        return path

    return make


def _rolled(roll: float) -> Make:
    def make(folder: Path) -> Path:
        path = clips.save(folder / "a.mkv", frames=2)
        path.write_bytes(clips.with_roll(path.read_bytes(), roll))
        return path

    return make


def _with_message(orientation: str) -> Make:
    return lambda folder: clips.with_orientation(
        clips.save(folder / "a.h264", frames=2, container_format="h264"), orientation
    )


_MATRIX_CASES = [
    *(
        (f"{name}: {codec} in {ending.upper()}", _turned(ending, codec, matrix), right)
        for ending, codec in (("mp4", "libx264"), ("mov", "libx264"), ("mp4", "libx265"), ("3gp", "mpeg4"))
        for name, (matrix, right) in ORIENTATIONS.items()
    ),
    *(
        (f"Matroska's roll of {roll} degrees", _rolled(roll), ORIENTATIONS[name][1])
        for roll, name in ((90, "rotated to the left"), (-90, "rotated to the right"), (180, "rotated by 180 degrees"))
    ),
    *(
        (f"H.264's orientation message: {message}", _with_message(message), ORIENTATIONS[name][1])
        for message, name in (
            ("rotate=90", "rotated to the left"),
            ("rotate=180", "rotated by 180 degrees"),
            ("flip=horizontal", "mirrored"),
            ("flip=vertical", "upside down"),
        )
    ),
]


def _raw(name: str, codec: str, fps: int = FPS) -> Make:
    return lambda folder: clips.save(folder / f"a.{name}", codec, container_format=name, fps=fps)


def _avi(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = clips.save(folder / "a.avi", "mpeg4")
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _stamped(stamps_ms: Sequence[int]) -> Make:
    def make(folder: Path) -> Path:
        path = clips.save(folder / "a.flv")
        path.write_bytes(clips.with_stamps(path.read_bytes(), stamps_ms))
        return path

    return make


_STEADY = [40 * number for number in range(FRAMES)]
_TIME_CASES = [
    ("a raw H.264 dump", _raw("h264", "libx264")),
    ("a raw H.265 dump", _raw("hevc", "libx265")),
    ("a raw MPEG-4 dump", _raw("m4v", "mpeg4")),
    ("JPEG after JPEG in a file", _raw("mjpeg", "mjpeg")),
    ("an AVI that ends before its index", _avi(clips.without_index)),
    ("an AVI with a broken index", _avi(clips.with_broken_index)),
    ("an AVI that claims a million frames per second", _avi(clips.with_absurd_rate)),
    ("time stamps that are all 0", _stamped([0] * FRAMES)),
    ("time stamps that come in pairs", _stamped([stamp // 80 * 80 for stamp in _STEADY])),
    ("time stamps that run backwards", _stamped([2000 - stamp for stamp in _STEADY])),
    ("time stamps that begin below 0", _stamped([stamp - 1000 for stamp in _STEADY])),
    ("a clock that is set forward by an hour", _stamped([stamp + 3_600_000 * (stamp >= 800) for stamp in _STEADY])),
    ("a clock that is set back by an hour", _stamped([stamp + 3_600_000 * (stamp < 800) for stamp in _STEADY])),
    ("time stamps that overflow 32 bits", _stamped([stamp + 2**31 - 1 - 1000 for stamp in _STEADY])),
]


def _is_thinned(make: Make, right: Sequence[float] = _TIMES_AT_5_FPS) -> Callable[[Path], str | None]:
    def problem(folder: Path) -> str | None:
        found = [round(time_s, 2) for time_s in times_of(make(folder), max_fps=5)]
        close = len(found) == len(right) and all(abs(a - b) < 0.1 for a, b in zip(found, right, strict=True))
        return None if close else f"with max_fps 5, frames are taken at {found} s, and should be at {right} s"

    return problem


def _plays_at_its_pace(make: Make) -> Callable[[Path], str | None]:
    def problem(folder: Path) -> str | None:
        path = make(folder)
        started_at_s = time.monotonic()
        last_s = times_of(path, policy="drop_oldest")[-1]
        took_s = time.monotonic() - started_at_s
        right_s = (FRAMES - 1) / FPS
        if took_s < 0.9 * right_s:
            return f"it ends after {took_s:.2f} s, and should last {right_s:.2f} s"
        return None if abs(last_s - right_s) < 0.1 else f"it lasts {last_s:.2f} s, and should last {right_s:.2f} s"

    return problem


def _varying(folder: Path) -> Path:
    """Make a clip whose first, second and third seconds have 10 frames, one frame and 39 frames."""
    stamps_ms = [*range(0, 1000, 100), 1000, *(2000 + 25 * number for number in range(FRAMES - 11))]
    return _stamped(stamps_ms)(folder)


def _a_raw_one_of_ten(folder: Path) -> str | None:
    found = len(times_of(_raw("h264", "libx264", 10)(folder), max_fps=5))
    return (
        None
        if found == FRAMES // 2
        else f"of {FRAMES} frames at 10 per second, max_fps 5 takes {found}, and should take {FRAMES // 2}"
    )


CASES: tuple[Case, ...] = (
    *(file_case(_COVERS, member, _shows_the_video(make)) for member, make in _COVER_CASES),
    file_case(_COVERS, "a cover and no video", _only_a_cover),
    file_case(_COVERS, "only a track of an unknown codec", _only_an_unknown_codec),
    *(file_case(_MATRICES, member, _is_upright(make, right)) for member, make, right in _MATRIX_CASES),
    *(file_case(_TIMES, f"{member}: max_fps", _is_thinned(make)) for member, make in _TIME_CASES),
    *(file_case(_TIMES, f"{member}: its own pace", _plays_at_its_pace(make)) for member, make in _TIME_CASES[:4]),
    file_case(_TIMES, "a raw dump that states its frame rate", _a_raw_one_of_ten),
    file_case(
        _TIMES,
        "a variable frame rate",
        _is_thinned(_varying, [0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 2.2, 2.4, 2.6, 2.8]),
    ),
)

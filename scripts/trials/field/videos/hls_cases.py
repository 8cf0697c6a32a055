"""Cases of HLS playlists from media servers: names, keys, variants and discontinuities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.trials.field.videos import clips
from scripts.trials.field.videos.reading import frames_of, refuses
from scripts.trials.field.videos.servers import (
    IV,
    KEY,
    Answer,
    Answers,
    encrypted,
    hls,
    playlist,
    segments,
    sends,
)


def _plays(frames: int = 30) -> Callable[[str], str | None]:
    def problem(url: str) -> str | None:
        found = len(frames_of(f"{url}/a.m3u8"))
        return None if found == frames else f"it shows {found} frames, and should show {frames}"

    return problem


def _named(*names: str, content_type: str = "video/mp2t") -> Callable[[], Mapping[str, Answer]]:
    return lambda: hls(list(names), segments(len(names)), content_type=content_type)


def _keyed(tag: str, ivs: list[bytes], key_answer: Answer | None = None) -> Callable[[], Mapping[str, Answer]]:
    def answers() -> Mapping[str, Answer]:
        parts = [encrypted(part, iv) for part, iv in zip(segments(), ivs, strict=True)]
        return {**hls(["0", "1", "2"], parts, tag), "/key": key_answer or sends(KEY)}

    return answers


_NUMBERS = [number.to_bytes(16, "big") for number in range(3)]
_KEY_TAG = '#EXT-X-KEY:METHOD=AES-128,URI="key"'


def _ranges() -> Mapping[str, Answer]:
    parts = segments()
    lines = [line for part in parts for line in (f"#EXT-X-BYTERANGE:{len(part)}", "all")]
    return {"/a.m3u8": sends(playlist(*lines)), "/all": sends(b"".join(parts))}


def _variants() -> Mapping[str, Answer]:
    text = (
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000,RESOLUTION=64x32\nsmall.m3u8\n"
        "#EXT-X-STREAM-INF:BANDWIDTH=2000,RESOLUTION=128x64\nlarge\n"
    )
    found = dict(hls(["0", "1", "2"], segments()))
    return {**found, "/large": found["/a.m3u8"], "/a.m3u8": sends(text.encode())}


def _fragments() -> Mapping[str, Answer]:
    """Return the answers of a server with a playlist of MP4 fragments and an initialisation segment."""
    first, *fragments = clips.fragments()
    names = [f"{number}.cmfv" for number in range(len(fragments))]
    return {**hls(names, fragments, '#EXT-X-MAP:URI="first.php"'), "/first.php": sends(first)}


def _spliced(*runs: tuple[str, tuple[int, int]]) -> Callable[[], Mapping[str, Answer]]:
    """Return a function that makes the answers of a server whose playlist lists clips of ten frames.

    Each of ``runs`` gives a clip's codec and size. In broadcasts, the codec and the size may change at the
    start of an advert.
    """

    def answers() -> Mapping[str, Answer]:
        found: dict[str, Answer] = {}
        with TemporaryDirectory() as folder:
            for number, (codec, size) in enumerate(runs):
                path = clips.save(Path(folder) / f"{number}.ts", codec, frames=10, size=size)
                found[f"/{number}.ts"] = sends(path.read_bytes())
        names = [name.removeprefix("/") for name in found]
        lines = [line for name in names for line in ("#EXT-X-DISCONTINUITY", name)]
        return {**found, "/a.m3u8": sends(playlist(*lines))}

    return answers


def _spliced_fragments(size: tuple[int, int]) -> Callable[[], Mapping[str, Answer]]:
    def answers() -> Mapping[str, Answer]:
        found: dict[str, Answer] = {}
        lines = []
        for name, (first, *rest) in {"a": clips.fragments(), "b": clips.fragments(size)}.items():
            lines += ["#EXT-X-DISCONTINUITY", f'#EXT-X-MAP:URI="{name}"', *(f"{name}{n}" for n in range(len(rest)))]
            found |= {f"/{name}": sends(first)} | {f"/{name}{n}": sends(part) for n, part in enumerate(rest)}
        return {**found, "/a.m3u8": sends(playlist(*lines))}

    return answers


def _ends_as(frames: int, size: tuple[int, int]) -> Callable[[str], str | None]:
    def problem(url: str) -> str | None:
        shown = frames_of(f"{url}/a.m3u8")
        found = len(shown), shown[-1].shape[1::-1]
        return (
            None
            if found == (frames, size)
            else f"it has {found[0]} frames, the last of {found[1]}, and should have {frames}, the last of {size}"
        )

    return problem


_SMALL, _LARGE = (clips.WIDTH_PX, clips.HEIGHT_PX), (2 * clips.WIDTH_PX, 2 * clips.HEIGHT_PX)
_FAIRPLAY = '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://a",KEYFORMAT="com.apple.streamingkeydelivery"'
_SOUND_FIRST = (
    '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9000,CODECS="mp4a.40.2"\nsound.m3u8\n'
    '#EXT-X-STREAM-INF:BANDWIDTH=500,CODECS="avc1.4d401f,mp4a.40.2"\nvideo.m3u8\n'
)


def _sound_and_video() -> Mapping[str, Answer]:
    found = dict(hls(["0", "1", "2"], segments()))
    return {**found, "/video.m3u8": found["/a.m3u8"], "/a.m3u8": sends(_SOUND_FIRST.encode())}


HLS_CASES: list[tuple[str, Answers, Callable[[str], str | None]]] = [
    ("fragments of MP4", _fragments, _plays(clips.FRAMES)),
    ("segments without an extension", _named("seg/0", "seg/1", "seg/2"), _plays()),
    ("segments that end in .php", _named("s.php?n=0"), _plays(10)),
    ("segments that end in .jpg", _named("0.jpg", "1.jpg", "2.jpg", content_type="image/jpeg"), _plays()),
    ("segments that end in .html", _named("0.html", "1.html", content_type="text/html"), _plays(20)),
    ("segments with unusual extensions", _named("0.dat", "1.key", "2.exe"), _plays()),
    ("segments that are parts of one file", _ranges, _plays()),
    ("two variants, the larger one without an extension", _variants, _plays()),
    ("AES-128 with an IV", _keyed(f"{_KEY_TAG},IV=0x{IV.hex()}", [IV] * 3), _plays()),
    ("AES-128 without an IV", _keyed(_KEY_TAG, _NUMBERS), _plays()),
    ("AES-128 whose key is refused", _keyed(_KEY_TAG, _NUMBERS, sends(b"", 403)), refuses("/a.m3u8", "403 Forbidden")),
    ("AES-128 whose key is too short", _keyed(_KEY_TAG, _NUMBERS, sends(KEY[:15])), refuses("/a.m3u8", "16 bytes")),
    ("AES-128 with another key", _keyed(_KEY_TAG, _NUMBERS, sends(IV)), refuses("/a.m3u8", "key")),
    (
        "a key at a private address",
        _keyed('#EXT-X-KEY:METHOD=AES-128,URI="http://localhost/key"', _NUMBERS),
        refuses("/a.m3u8", "SERVE_APP_ALLOWED_NETWORKS"),
    ),
    (
        "a segment at a private address",
        {"/a.m3u8": sends(playlist("http://10.0.0.1/0.ts"))},
        refuses("/a.m3u8", "SERVE_APP_ALLOWED_NETWORKS"),
    ),
    (
        "a playlist at a private address",
        {"/a.m3u8": sends(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://[::1]/a.m3u8\n")},
        refuses("/a.m3u8", "SERVE_APP_ALLOWED_NETWORKS"),
    ),
    ("another codec after a discontinuity", _spliced(("libx264", _SMALL), ("mpeg2video", _SMALL)), _plays(20)),
    (
        "another size between two discontinuities",
        _spliced(("libx264", _SMALL), ("libx264", _LARGE), ("libx264", _SMALL)),
        _ends_as(30, _SMALL),
    ),
    ("another map after a discontinuity", _spliced_fragments(_LARGE), _ends_as(2 * clips.FRAMES, _LARGE)),
    ("another map of the same size", _spliced_fragments(_SMALL), _ends_as(2 * clips.FRAMES, _SMALL)),
    ("an audio-only variant with the highest bandwidth", _sound_and_video, _plays()),
    ("AES-128 next to FairPlay", _keyed(f"{_KEY_TAG}\n{_FAIRPLAY}", _NUMBERS), _plays()),
    (
        "a key inside the playlist",
        _keyed('#EXT-X-KEY:METHOD=AES-128,URI="data:,0123456789abcdef"', _NUMBERS),
        refuses("/a.m3u8", "serve the key over HTTP"),
    ),
    (
        "variables",
        {"/a.m3u8": sends(playlist('#EXT-X-DEFINE:NAME="n",VALUE="0"', "{$n}"))},
        refuses("/a.m3u8", "EXT-X-DEFINE"),
    ),
    (
        "SAMPLE-AES",
        _keyed('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="key"', _NUMBERS),
        refuses("/a.m3u8", "only AES-128 with a plain key"),
    ),
]  # fmt: skip

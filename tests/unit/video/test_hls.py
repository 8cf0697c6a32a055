"""Parsing of HLS playlists and reading of their segments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from scripts.trials.field.videos.servers import Answer, Handler, playlist, sends, serving
from serve_app.errors import SourceError, SourceGone, SourceStalled
from serve_app.network.address_guard import AddressGuard
from serve_app.video import hls
from serve_app.video.hls import HlsBody, Key, parse_playlist
from serve_app.video.source import parse_source
from serve_app.video.web import WebClient

Read = Callable[[dict[str, Answer]], tuple[bytes, list[str]]]
URL = "http://host/live/a.m3u8?token=1"


def parts_of(*lines: str) -> list[tuple[str, int, int | None]]:
    found = parse_playlist(playlist(*lines).decode(), URL, "x").segments
    return [(segment.part.url, segment.part.first_byte, segment.part.size) for segment in found]


def test_relative_urls_are_resolved_against_the_playlists_url() -> None:
    found = parts_of("1.ts", "/2", "../3?x=1", "http://other/4", "//other/5")
    assert [url for url, *_ in found] == [
        "http://host/live/1.ts", "http://host/2", "http://host/3?x=1", "http://other/4", "http://other/5",
    ]  # fmt: skip


def test_a_byte_range_without_an_offset_starts_where_the_last_one_of_its_file_ended() -> None:
    lines = ["#EXT-X-BYTERANGE:10@5", "a", "#EXT-X-BYTERANGE:7", "a", "#EXT-X-BYTERANGE:3", "b", "c"]
    assert [part[1:] for part in parts_of(*lines)] == [(5, 10), (15, 7), (0, 3), (0, None)]


def test_a_key_applies_until_the_next_one() -> None:
    lines = ["0", '#EXT-X-KEY:METHOD=AES-128,URI="k,1",IV=0X1f', "1", "2", "#EXT-X-KEY:METHOD=NONE", "3"]
    found = parse_playlist(playlist(*lines).decode(), URL, "x").segments
    key = Key("http://host/live/k,1", bytes(15) + b"\x1f")
    assert [segment.part.key for segment in found] == [None, key, key, None]


def test_a_gap_is_skipped_but_keeps_its_number() -> None:
    found = parse_playlist(playlist("0", "#EXT-X-GAP", "1", "2").decode(), URL, "x").segments
    assert [(segment.number, segment.part.url[-1]) for segment in found] == [(0, "0"), (2, "2")]


@pytest.mark.parametrize(
    "tag",
    [
        '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="k"',
        '#EXT-X-KEY:METHOD=AES-128,URI="k",KEYFORMAT="com.apple.streamingkeydelivery"',
        '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0xzz',
        f'#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x{"1" * 33}',
    ],
)
def test_an_unsupported_key_is_refused(tag: str) -> None:
    with pytest.raises(SourceError):
        parts_of(tag, "0")


@pytest.mark.parametrize("text", ["", "#EXT", "<html>", "#EXTM3U8"[:6]])
def test_a_text_that_is_not_a_playlist_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        parse_playlist(text, URL, "x")


@pytest.mark.parametrize("address", ["http://[x/", "http://host:99999/", "file:///etc/passwd", "data:,x", "http:///"])
def test_an_invalid_url_is_refused_when_it_is_requested(address: str, read: Read) -> None:
    with pytest.raises(SourceError):
        read({"/a": sends(playlist(address))})


def test_invalid_numbers_are_ignored() -> None:
    lines = ["#EXT-X-MEDIA-SEQUENCE:x", "#EXT-X-TARGETDURATION:-1", "#EXT-X-BYTERANGE:@", "#EXT-X-MAP:x", "0"]
    found = parse_playlist(playlist(*lines).decode(), URL, "x")
    assert (len(found.segments), found.target_s) == (1, 1.0)
    assert parse_playlist(playlist("#EXT-X-TARGETDURATION:" + "9" * 400).decode(), URL, "x").target_s == 1.0


def window(first: int, last: int, has_end: bool = False) -> bytes:
    """Return a live playlist with the segments from ``first`` to ``last``."""
    head = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
    return (
        head + "".join(f"#EXTINF:1,\n{n}\n" for n in range(first, last + 1)) + "#EXT-X-ENDLIST\n" * has_end
    ).encode()


def live(*windows: bytes) -> Answer:
    """Return an answer that sends one playlist after another, and repeats the last one."""
    left = list(windows)

    def answer(handler: Handler) -> None:
        sends(left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer


@pytest.fixture(autouse=True)
def _polls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hls, "_MAX_POLL_S", 0.001)


@pytest.fixture
def read() -> Read:
    """Return a function that reads the playlist ``/a`` from a server with the given answers.

    The function returns the bytes of the video and the paths of the requests. In the bytes, ``|`` separates runs of
    segments. ``HlsBody`` defines such runs.
    """

    def read(answers: dict[str, Answer]) -> tuple[bytes, list[str]]:
        with serving(answers) as server:
            client = WebClient(parse_source(f"{server.url}/a", ()), AddressGuard())
            with closing(client.get(f"{server.url}/a")) as reply:
                body = HlsBody(client, reply, "x", 1_000_000)
                runs = [b"".join(iter(lambda: body.read(3), b""))]
                while body.next_run():
                    runs.append(b"".join(iter(lambda: body.read(3), b"")))
                return b"|".join(runs), server.asked

    return read


SEGMENTS = {f"/{n}": sends(b"<%d>" % n) for n in range(20)}


def test_a_live_playlist_starts_near_its_end_and_shows_each_segment_once(read: Read) -> None:
    windows = window(0, 9), window(0, 9), window(1, 10), window(2, 12), window(3, 12, has_end=True)
    assert read(SEGMENTS | {"/a": live(*windows)})[0] == b"<7><8><9><10><11><12>"


def test_a_missing_segment_of_a_live_playlist_is_skipped(read: Read) -> None:
    answers = SEGMENTS | {"/a": live(window(0, 2), window(1, 4, has_end=True)), "/2": sends(b"", 404)}
    assert read(answers)[0] == b"<0><1><3><4>"


def test_a_missing_segment_of_a_recording_is_reported(read: Read) -> None:
    with pytest.raises(SourceGone, match="404 Not Found"):
        read(SEGMENTS | {"/a": live(window(0, 2, has_end=True)), "/1": sends(b"", 404)})


def test_a_live_playlist_that_restarts_continues(read: Read) -> None:
    assert read(SEGMENTS | {"/a": live(window(7, 9), window(0, 1), window(0, 2, has_end=True))})[0] == (
        b"<7><8><9><0><1><2>"
    )


def test_a_live_playlist_without_new_segments_has_stalled(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hls, "_STALLED_AFTER_S", 0.0)
    monkeypatch.setattr(hls, "_STALLED_AFTER_TARGETS", 0.0)
    with pytest.raises(SourceStalled, match="no new segments"):
        read(SEGMENTS | {"/a": live(window(0, 2))})


def test_an_initialization_section_is_read_once_in_a_run(read: Read) -> None:
    text = playlist('#EXT-X-MAP:URI="9"', "0", "1", '#EXT-X-MAP:URI="8"', "2", "#EXT-X-DISCONTINUITY", "3")
    assert read(SEGMENTS | {"/a": sends(text)})[0] == b"<9><0><1>|<8><2>|<8><3>"


def test_a_run_starts_even_if_its_first_segment_is_a_gap(read: Read) -> None:
    gone = "#EXT-X-DISCONTINUITY", "#EXT-X-GAP", "1"
    assert read(SEGMENTS | {"/a": sends(playlist("0", *gone, "2", "3"))})[0] == b"<0>|<2><3>"


def test_a_server_that_ignores_byte_ranges_is_read_correctly(read: Read) -> None:
    text = playlist("#EXT-X-BYTERANGE:4@2", "all", "#EXT-X-BYTERANGE:3", "all")
    assert read({"/a": sends(text), "/all": sends(b"0123456789")})[0] == b"2345678"


def test_only_the_best_variant_that_fits_is_fetched(read: Read) -> None:
    variants = (("0", "640x480", 1), ("1", "900x900", 2), ("2", "9000x9000", 9), ("3", "900x900", 3))
    text = "#EXTM3U\n" + "".join(
        f'#EXT-X-STREAM-INF:BANDWIDTH={rate},RESOLUTION={size},CODECS="avc1,mp4a"\nv{name}\n'
        for name, size, rate in variants
    )
    found = {f"/v{name}": sends(playlist(name)) for name, *_ in variants}
    assert read(SEGMENTS | found | {"/a": sends(text.encode())}) == (b"<3>", ["/a", "/v3", "/3"])


def test_a_master_playlist_must_not_lead_to_another_one(read: Read) -> None:
    text = sends(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n/b\n")
    with pytest.raises(SourceError, match="master playlist of master playlists"):
        read({"/a": text, "/b": text})


def test_a_playlist_that_is_too_large_is_refused(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hls, "_MAX_PLAYLIST_BYTES", 1000)
    with pytest.raises(SourceError, match="playlist of more than"):
        read({"/a": sends(playlist(*map(str, range(1000))))})

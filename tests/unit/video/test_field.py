"""Videos and streams like those of real phones, cameras, video editors and media servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.trials.field.case import Case
from scripts.trials.field.videos import CASES
from scripts.trials.field.videos.reading import frames_of, times_of
from tests.conftest import needs_shared
from tests.support.paths import SHARED


def of_kind(kind: str) -> pytest.MarkDecorator:
    """Parametrize a test with all cases of this kind."""
    cases = [case for case in CASES if case.kind == kind]
    assert len(cases) >= 2
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.member)


def test_every_case_is_of_a_kind_that_is_tested_here() -> None:
    assert {case.kind for case in CASES} == {
        "cover art and other tracks", "display matrices", "time stamps", "JPEG after JPEG", "HLS",
        "a camera's snapshot address", "what a server refuses", "proxies", "what a camera refuses over RTSP",
        "video over TCP", "folders", "clips over HTTP",
    }  # fmt: skip


@of_kind("cover art and other tracks")
def test_a_cover_is_not_taken_for_the_video(case: Case) -> None:
    assert case.problem("") is None


@of_kind("display matrices")
def test_a_video_is_shown_as_a_player_shows_it(case: Case) -> None:
    assert case.problem("") is None


@of_kind("time stamps")
def test_time_advances_whatever_the_timestamps_are(case: Case) -> None:
    assert case.problem("") is None


@of_kind("JPEG after JPEG")
def test_a_cameras_jpegs_are_read_whatever_is_between_them(case: Case) -> None:
    assert case.problem("") is None


@of_kind("HLS")
def test_a_playlists_segments_are_read_by_any_name_from_allowed_addresses(case: Case) -> None:
    assert case.problem("") is None


@of_kind("clips over HTTP")
def test_a_clip_over_http_is_read_to_its_end(case: Case) -> None:
    assert case.problem("") is None


@of_kind("a camera's snapshot address")
def test_a_snapshot_url_is_requested_repeatedly(case: Case) -> None:
    assert case.problem("") is None


@of_kind("what a server refuses")
def test_a_servers_refusal_is_reported_with_its_reason(case: Case) -> None:
    assert case.problem("") is None


@of_kind("what a camera refuses over RTSP")
def test_a_cameras_refusal_is_reported_with_its_reason(case: Case) -> None:
    assert case.problem("") is None


@of_kind("proxies")
def test_a_proxy_is_named_in_errors_and_not_used_for_local_hosts(case: Case) -> None:
    assert case.problem("") is None


@of_kind("video over TCP")
def test_video_over_tcp_needs_no_container(case: Case) -> None:
    assert case.problem("") is None


@of_kind("folders")
def test_every_file_of_a_folder_is_read_refused_or_counted(case: Case) -> None:
    assert case.problem("") is None


@needs_shared
def test_the_cover_of_a_file_from_the_field_is_not_the_video() -> None:
    shown = frames_of(SHARED / "field/cover_before_tracks.mp4")
    assert (len(shown), shown[0].shape) == (30, (240, 320, 3))


@needs_shared
def test_twelve_seconds_without_timestamps_are_sixty_frames_at_5_fps() -> None:
    assert len(times_of(Path(SHARED / "field/raw_12s_25fps.h264"), max_fps=5)) == 60

"""Sources from the field: what phones, cameras, exporters and media servers write."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.trials.field.case import Case
from scripts.trials.field.videos import CASES
from scripts.trials.field.videos.reading import frames_of, times_of
from tests.conftest import needs_shared
from tests.support.paths import SHARED


def of_kind(kind: str) -> pytest.MarkDecorator:
    """Every case of it."""
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
def test_a_video_is_shown_as_its_player_shows_it(case: Case) -> None:
    assert case.problem("") is None


@of_kind("time stamps")
def test_time_goes_on_whatever_the_time_stamps_are(case: Case) -> None:
    assert case.problem("") is None


@of_kind("JPEG after JPEG")
def test_a_cameras_pictures_are_read_whatever_lies_between_them(case: Case) -> None:
    assert case.problem("") is None


@of_kind("HLS")
def test_a_playlists_segments_are_read_by_any_name_and_from_where_they_may_be(case: Case) -> None:
    assert case.problem("") is None


@of_kind("clips over HTTP")
def test_a_clip_over_http_is_read_to_its_end_by_what_it_is(case: Case) -> None:
    assert case.problem("") is None


@of_kind("a camera's snapshot address")
def test_an_address_of_one_picture_is_asked_again(case: Case) -> None:
    assert case.problem("") is None


@of_kind("what a server refuses")
def test_a_servers_refusal_is_told_with_its_reason(case: Case) -> None:
    assert case.problem("") is None


@of_kind("what a camera refuses over RTSP")
def test_a_cameras_refusal_is_told_with_its_reason(case: Case) -> None:
    assert case.problem("") is None


@of_kind("proxies")
def test_a_proxy_is_named_where_it_is_used_and_not_used_next_door(case: Case) -> None:
    assert case.problem("") is None


@of_kind("video over TCP")
def test_video_over_tcp_needs_no_container(case: Case) -> None:
    assert case.problem("") is None


@of_kind("folders")
def test_a_folders_files_are_all_read_refused_or_counted(case: Case) -> None:
    assert case.problem("") is None


@needs_shared
def test_a_cover_of_somebody_elses_is_not_the_video_either() -> None:
    shown = frames_of(SHARED / "field/cover_before_tracks.mp4")
    assert (len(shown), shown[0].shape) == (30, (240, 320, 3))


@needs_shared
def test_twelve_seconds_without_time_stamps_are_sixty_frames_at_five_a_second() -> None:
    assert len(times_of(Path(SHARED / "field/raw_12s_25fps.h264"), max_fps=5)) == 60

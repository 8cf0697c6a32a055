from __future__ import annotations

import pytest

from serve_app.errors import Overloaded
from serve_app.schemas.streams import Policy, SourceSpec, StreamSpec
from serve_app.streams.admission import StreamDemand, admit, check_stream_count


def load(policy: Policy = "drop_oldest", source_fps: float | None = None, **fields: object) -> StreamDemand:
    return StreamDemand(StreamSpec(source=SourceSpec(uri="rtsp://host/"), **fields), policy, source_fps)


def test_a_stream_within_the_capacity_is_admitted() -> None:
    admit(load(source_fps=10), [load(source_fps=20), load(max_fps=5)], 35)


def test_one_stream_too_many_is_refused_with_the_figures() -> None:
    figures = r"^detector_capacity: .* process 34 frames per second; .* send 25, and this one would add 10"
    with pytest.raises(Overloaded, match=figures) as refusal:
        admit(load(source_fps=10), [load(source_fps=20), load(max_fps=5)], 34)
    assert refusal.value.limit == "detector_capacity"


def test_a_stream_with_degrade_is_always_admitted() -> None:
    admit(load(degrade=True), [load()] * 10, 1)


def test_a_stream_with_the_wait_policy_uses_no_capacity() -> None:
    admit(load("wait"), [load()] * 10, 1)
    admit(load(), [load("wait")] * 10, 25)


def test_an_undeclared_frame_rate_counts_as_25_fps() -> None:
    assert load().fps == 25
    assert load(max_fps=100).fps == 25
    assert load(source_fps=50, max_fps=10).fps == 10


def test_the_setting_limits_the_number_of_streams() -> None:
    check_stream_count(255, 256)
    for count in (256, 257):  # 257 streams can exist if the limit was lowered
        sentence = rf"^streams\.max_streams: {count} streams exist and 256 are allowed"
        with pytest.raises(Overloaded, match=sentence) as refusal:
            check_stream_count(count, 256)
        assert refusal.value.limit == "streams.max_streams"

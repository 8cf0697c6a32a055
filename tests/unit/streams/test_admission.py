from __future__ import annotations

import pytest

from serve_app.errors import Overloaded
from serve_app.schemas.detect import InputSize
from serve_app.schemas.streams import Policy, SourceSpec, StreamSpec
from serve_app.streams.admission import Capacity, StreamDemand, admit, check_stream_count
from serve_app.types import InputShape

WIDE = InputSize(width=640, height=384)  # 0.6 of the square


def load(
    policy: Policy = "drop_oldest", source_fps: float | None = None, seen: InputSize | None = None, **fields: object
) -> StreamDemand:
    return StreamDemand(StreamSpec(source=SourceSpec(uri="rtsp://host/"), **fields), policy, source_fps, seen)


def capacity(fps: float) -> Capacity:
    return Capacity(fps, InputShape.square(640))


def test_a_stream_within_the_capacity_is_admitted() -> None:
    admit(load(source_fps=10), [load(source_fps=20), load(max_fps=5)], capacity(35))


def test_one_stream_too_many_is_refused_with_the_figures() -> None:
    figures = r"^detector_capacity: .* process 34 frames of .* per second; .* time as 25 of them, .* would add 10;"
    with pytest.raises(Overloaded, match=figures) as refusal:
        admit(load(source_fps=10), [load(source_fps=20), load(max_fps=5)], capacity(34))
    assert refusal.value.limit == "detector_capacity"


def test_streams_of_wide_frames_count_by_the_pixels_of_their_inputs() -> None:
    others = [load(source_fps=25, seen=WIDE)] * 39
    admit(load(source_fps=25, seen=WIDE), others, capacity(600))
    admit(load(source_fps=25), others, capacity(610))  # the frames of a new stream may need the largest input
    with pytest.raises(Overloaded, match=r"as 585 of them, and this one would add 25"):
        admit(load(source_fps=25), others, capacity(609))


def test_an_input_of_a_previous_model_counts_at_most_as_the_largest_input() -> None:
    assert load(source_fps=10, seen=InputSize(width=1280, height=1280)).in_largest_inputs(InputShape.square(640)) == 10


def test_a_stream_with_degrade_is_always_admitted() -> None:
    admit(load(degrade=True), [load()] * 10, capacity(1))


def test_a_stream_with_the_wait_policy_uses_no_capacity() -> None:
    admit(load("wait"), [load()] * 10, capacity(1))
    admit(load(), [load("wait")] * 10, capacity(25))


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

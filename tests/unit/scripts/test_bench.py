"""Tests of the benchmark's calculations."""

from __future__ import annotations

import pytest

from scripts.bench import steps
from scripts.benchmark import report


@pytest.mark.parametrize(
    ("text", "expected"), [("8", [8]), ("1:4", [1, 2, 3, 4]), ("1:16:5", [1, 6, 11, 16]), ("1:16:4x", [1, 4, 16])]
)
def test_a_concurrency_range_has_the_syntax_of_perf_analyzer(text: str, expected: list[int]) -> None:
    assert steps(text) == expected


def test_the_rounds_of_a_case_are_combined() -> None:
    one = {
        "contender": "a", "detectors": 1, "concurrency": 4, "round": 0, "images_per_s": 10.0,
        "latencies_ms": [1.0, 2.0, 3.0],
        "failures": {"503": 1}, "cpu_ms_per_image": 30.0, "mean_batch_size": None, "memory_mib": 5.0,
    }  # fmt: skip
    other = one | {"round": 1, "images_per_s": 20.0, "latencies_ms": [4.0, 5.0], "memory_mib": 7.0, "failures": {}}
    result = {"measurements": [one, other], "ceiling": []}
    assert report.cases(result) == [("a", 4)]
    summary = report.summary(result, "a", 4)
    assert (summary["images_per_s"], summary["p50_ms"], summary["memory_mib"], summary["failed"]) == (15.0, 3.0, 7.0, 1)

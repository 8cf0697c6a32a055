"""The conditions under which the detections of two engines agree."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.detections import Detections
from serve_app.models.agreement import agree

BOX = (10.0, 10.0, 110.0, 110.0)


def found(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    boxes, confidences, class_ids = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(confidences, np.float32), np.array(class_ids, np.int32)
    )


ONE = found((BOX, 0.8, 0))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (found((BOX, 0.8, 0)), True),
        (found((BOX, 0.78, 0)), True),
        (found((BOX, 0.76, 0)), False),
        (found(((12.0, 10.0, 112.0, 110.0), 0.8, 0)), True),
        (found(((20.0, 10.0, 120.0, 110.0), 0.8, 0)), False),
        (found((BOX, 0.8, 1)), False),
        (found(), False),
        (found((BOX, 0.8, 0), (BOX, 0.8, 0)), False),
        # 0.32 exceeds the threshold by less than the tolerance, so this detection needs no match.
        (found((BOX, 0.8, 0), ((300.0, 300.0, 400.0, 400.0), 0.32, 0)), True),
        (found((BOX, 0.8, 0), ((300.0, 300.0, 400.0, 400.0), 0.5, 0)), False),
    ],
)
def test_detections_agree_within_rounding(other: Detections, same: bool) -> None:
    assert agree(ONE, other) is same
    assert agree(other, ONE) is same


def test_two_empty_results_agree() -> None:
    assert agree(found(), found())

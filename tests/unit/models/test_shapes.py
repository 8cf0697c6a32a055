from __future__ import annotations

import pytest

from serve_app.models.engines.inputs import allowed_rectangles
from serve_app.models.shapes import rectangles
from serve_app.types import InputShape


def listed(side_px: int, stride_px: int = 32) -> list[str]:
    return [str(shape) for shape in rectangles(InputShape.square(side_px), stride_px)]


def test_the_rectangles_are_3_4_and_2_3_and_9_16_of_the_square_in_both_orientations() -> None:
    assert listed(640) == ["384x640", "640x384", "448x640", "640x448", "480x640", "640x480"]


def test_the_shorter_side_is_a_multiple_of_the_stride() -> None:
    assert listed(1280, 64) == ["768x1280", "1280x768", "896x1280", "1280x896", "960x1280", "1280x960"]


@pytest.mark.parametrize(("side_px", "expected"), [(32, []), (64, []), (96, ["64x96", "96x64"])])
def test_a_small_square_has_fewer_rectangles(side_px: int, expected: list[str]) -> None:
    assert listed(side_px) == expected


def test_a_model_that_is_not_square_has_no_rectangles() -> None:
    assert rectangles(InputShape(384, 640), 32) == ()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (None, None, ["96x160", "160x96", "128x160", "160x128"]),
        (160, None, ["160x96", "160x128"]),
        (None, 160, ["96x160", "128x160"]),
        (160, 160, []),
    ],
)
def test_a_side_that_the_file_fixes_stays(height: int | None, width: int | None, expected: list[str]) -> None:
    found = allowed_rectangles([None, 3, height, width], InputShape.square(160), 32)
    assert [str(shape) for shape in found] == expected

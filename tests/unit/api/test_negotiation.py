"""What clients send as ``Accept``, and which answer they mean by it."""

from __future__ import annotations

import pytest

from scripts.trials.field.clients.requests import ACCEPTS_JSON, ACCEPTS_PICTURE
from serve_app.api.negotiation import prefers_jpeg


@pytest.mark.parametrize("accept", ["", *ACCEPTS_JSON.values()], ids=["no header", *ACCEPTS_JSON])
def test_these_mean_json(accept: str) -> None:
    assert not prefers_jpeg([accept])


@pytest.mark.parametrize("accept", ACCEPTS_PICTURE.values(), ids=ACCEPTS_PICTURE)
def test_these_mean_the_picture(accept: str) -> None:
    assert prefers_jpeg([accept])


def test_a_header_in_two_lines_is_one() -> None:
    assert prefers_jpeg(["application/json;q=0.5", "image/jpeg"])
    assert not prefers_jpeg(["image/jpeg;q=0.5", "application/json"])

"""The content type of the response to each ``Accept`` header that clients send."""

from __future__ import annotations

import pytest

from scripts.trials.field.clients.requests import ACCEPTS_JSON, ACCEPTS_PICTURE
from serve_app.api.negotiation import prefers_jpeg


@pytest.mark.parametrize("accept", ["", *ACCEPTS_JSON.values()], ids=["no header", *ACCEPTS_JSON])
def test_these_headers_get_json(accept: str) -> None:
    assert not prefers_jpeg([accept])


@pytest.mark.parametrize("accept", ACCEPTS_PICTURE.values(), ids=ACCEPTS_PICTURE)
def test_these_headers_get_the_picture(accept: str) -> None:
    assert prefers_jpeg([accept])


def test_two_accept_headers_are_combined() -> None:
    assert prefers_jpeg(["application/json;q=0.5", "image/jpeg"])
    assert not prefers_jpeg(["image/jpeg;q=0.5", "application/json"])

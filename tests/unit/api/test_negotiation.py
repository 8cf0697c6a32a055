"""What clients send as ``Accept``, and which answer they mean by it."""

from __future__ import annotations

import pytest

from serve_app.api.negotiation import prefers_jpeg

JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param("", id="OkHttp, .NET and Go: no header"),
        pytest.param("*/*", id="curl, requests, wget, fetch, Postman"),
        pytest.param("application/json, text/plain, */*", id="axios"),
        pytest.param(JAVA, id="Java's HttpURLConnection to 17"),
        pytest.param("text/html, image/gif, image/jpeg, */*; q=0.2", id="Java's HttpURLConnection since"),
        pytest.param(CHROME, id="Chrome navigates"),
        pytest.param("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", id="Firefox navigates"),
        pytest.param("image/gif, image/jpeg, image/pjpeg, application/x-ms-application, */*", id="old IE"),
        pytest.param("text/html;q=0.9, image/jpeg;q=0.9", id="a page as much as the picture"),
        pytest.param("application/json, image/jpeg;q=0.1", id="JSON rather"),
        pytest.param("application/json, image/jpeg", id="both as much"),
        pytest.param("image/jpeg;q=0.0, */*", id="no picture"),
        pytest.param("image/jpeg;q=0, image/*", id="no JPEG, though pictures"),
        pytest.param("image/jpeg; Q=0.000", id="a weight in capitals"),
        pytest.param("image/jpeg, */*", id="anything as much"),
        pytest.param("image/jpeg;q=0.5, */*;q=0.5", id="anything as much, by its weight"),
        pytest.param("image/*, */*", id="any picture, or anything"),
        pytest.param("image/png", id="only a picture that there is not"),
        pytest.param("image/jpeg;q=high", id="a weight that is no number"),
        pytest.param("image/jpeg;q=nan", id="a weight that is not a number"),
        pytest.param("image/", id="half a type"),
        pytest.param(";;image/;;,,", id="nonsense"),
        pytest.param('text/x;a="1, image/jpeg"', id="a comma in a quoted value"),
    ],
)
def test_these_mean_json(accept: str) -> None:
    assert not prefers_jpeg([accept])


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param("image/jpeg", id="as documented"),
        pytest.param("IMAGE/JPEG", id="in capitals"),
        pytest.param("image/jpg", id="by its common wrong name"),
        pytest.param("image/jpeg, */*;q=0.8", id="or else anything"),
        pytest.param("image/jpeg, application/json;q=0.9", id="JSON only rather than nothing"),
        pytest.param("image/jpeg;q=0.3, application/json;q=.2", id="by weights"),
        pytest.param("image/jpeg ; q = 0.7 , */* ; q = 0.1", id="spaces anywhere"),
        pytest.param("image/jpeg;q=1.5", id="a weight above one counts as one"),
        pytest.param("text/html;q=0.5, image/jpeg", id="a page rather not"),
        pytest.param("image/*", id="any picture"),
        pytest.param("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", id="a browser's img"),
        pytest.param("image/jpeg, application/*;q=0.5", id="any of an application less"),
    ],
)
def test_these_mean_the_picture(accept: str) -> None:
    assert prefers_jpeg([accept])


def test_a_header_in_two_lines_is_one() -> None:
    assert prefers_jpeg(["application/json;q=0.5", "image/jpeg"])
    assert not prefers_jpeg(["image/jpeg;q=0.5", "application/json"])

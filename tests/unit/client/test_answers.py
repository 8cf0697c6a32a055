"""Errors of the server, and of proxies in front of the server."""

from __future__ import annotations

import pickle
from typing import Any

import httpx
import pytest

from serve_app.client import ApiError, ConflictError, DetectResult, NotFoundError
from serve_app.client.answers import check, model_of, results_of

OVERLOADED = {"code": "overloaded", "detail": "the queue is full", "request_id": "7", "limit": "limits.max_requests"}


def refused(status_code: int, **kwargs: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        check(httpx.Response(status_code, **kwargs))
    return error.value


def test_an_error_has_every_field_of_the_response() -> None:
    error = refused(503, json=OVERLOADED, headers={"Retry-After": "3"})
    assert (error.code, error.detail, str(error)) == ("overloaded", "the queue is full", "the queue is full")
    assert (error.status_code, error.retry_after_s, error.is_retryable) == (503, 3, True)
    assert (error.limit, error.request_id) == ("limits.max_requests", "7")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.args, copy.limit, copy.is_retryable) == (error.args, error.limit, True)


def test_the_error_of_one_of_several_pictures_has_the_same_fields() -> None:
    response = httpx.Response(200, json={"results": [OVERLOADED, {"code": "new", "detail": "x", "request_id": ""}]})
    error, unknown = results_of(response, 2)
    assert isinstance(error, ApiError)
    assert (error.status_code, error.retry_after_s, error.limit) == (503, 1, "limits.max_requests")
    assert isinstance(unknown, ApiError)
    assert (unknown.code, unknown.status_code) == ("new", 500)  # a code that only a newer server knows


@pytest.mark.parametrize(
    ("status_code", "kind", "is_retryable"),
    [
        (400, ApiError, False), (404, NotFoundError, False), (409, ConflictError, False), (422, ApiError, False),
        (429, ApiError, True), (500, ApiError, False), (502, ApiError, True), (503, ApiError, True),
        (504, ApiError, True), (302, ApiError, False),
    ],
)  # fmt: skip
def test_the_status_decides_the_class_and_whether_to_retry(
    status_code: int, kind: type[ApiError], is_retryable: bool
) -> None:
    error = refused(status_code)
    assert (type(error), error.is_retryable) == (kind, is_retryable)


@pytest.mark.parametrize("body", [b"<html>502 Bad Gateway</html>", b"", b"[]", b'"text"', b"\xff"])
def test_an_error_of_a_proxy_is_an_api_error(body: bytes) -> None:
    headers = {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT", "X-Request-ID": "9"}
    error = refused(502, content=body, headers=headers)
    assert (error.code, error.detail) == ("http_502", "the server responded with status 502")
    assert (error.retry_after_s, error.request_id) == (None, "9")


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"{}", b"[]"])
def test_a_response_of_another_server_is_an_error(body: bytes) -> None:
    for read in (model_of(DetectResult), lambda response: results_of(response, 1)):
        with pytest.raises(ApiError, match=r"is not a DetectResult .* check the url") as error:
            read(httpx.Response(200, content=body))
        assert error.value.code == "unexpected_answer"


@pytest.mark.parametrize("results", [7, [], [7, 8], [{"code": "x"}]])
def test_a_wrong_list_of_results_is_an_error(results: Any) -> None:
    with pytest.raises(ApiError, match="does not have one result for each of 2 images") as error:
        results_of(httpx.Response(200, json={"results": results}), 2)
    assert error.value.code == "unexpected_answer"

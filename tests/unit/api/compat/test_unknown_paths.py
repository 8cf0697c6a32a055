"""Paths beside the routes of each protocol, whose clients need errors in their own form."""

from __future__ import annotations

import httpx
import pytest

from tests.support.api import Keys, SharedApi, client_of, is_error

pytestmark = pytest.mark.anyio

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
FORMS = {
    "deepstack": {"success", "error", "code", "requestId"},
    "open_inference": {"error"},
    "ultralytics": {"error", "code", "detail", "request_id"},
    "roboflow": {"message", "code", "detail", "request_id"},
}
PATHS = {
    "deepstack": ["/v1", "/v1/vision/face", "/v1/vision/face/recognize", "/v1/vision/custom/codes/x"],
    "open_inference": ["/v2/foo", "/v2/logging", "/v2/models/x/versions/1/stats", "/v2/systemsharedmemory/status"],
    "ultralytics": ["/api", "/api/models/a/b", "/predict/x"],
    "roboflow": ["/workflows/run", "/infer", "/infer/a/b", "/model", "/inference_pipelines/initialise"],
}
ALL = [(protocol, path) for protocol, paths in PATHS.items() for path in paths]


@pytest.fixture(scope="module")
def disabled() -> SharedApi:
    return SharedApi(compat={protocol: {"enabled": False} for protocol in PATHS})


@pytest.mark.parametrize(("protocol", "path"), ALL)
async def test_an_unknown_path_gets_404_in_the_form_of_its_protocol(
    client: httpx.AsyncClient, keyed: httpx.AsyncClient, keys: Keys, protocol: str, path: str
) -> None:
    right, wrong = keys.add("dock", "detect"), keys.add("yard", "streams")
    for method in METHODS:
        open_answer = await client.request(method, path)
        answers = [await keyed.request(method, path, headers=header) for header in (right, wrong, {})]
        assert [one.status_code for one in (open_answer, *answers)] == [404] * 4, method
        for answer in (open_answer, *answers):
            assert method == "HEAD" or answer.json().keys() == FORMS[protocol]
        assert method == "HEAD" or "are not supported" in open_answer.text


@pytest.mark.parametrize(("protocol", "path"), ALL)
async def test_an_unknown_path_of_a_disabled_protocol_gets_404_in_our_form(
    disabled: SharedApi, protocol: str, path: str
) -> None:
    async with client_of(disabled.api) as client:
        assert is_error(await client.post(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/vision/detection", "/v2/models/codes/infer", "/predict", "/infer/x"])
async def test_a_wrong_method_still_gets_405(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.delete(path)).status_code == 405


@pytest.mark.parametrize("path", ["/v1x", "/v20/models", "/apis", "/modelsx", "/nothing"])
async def test_other_unknown_paths_get_404_in_our_form(client: httpx.AsyncClient, path: str) -> None:
    assert is_error(await client.get(path), 404, "not_found")

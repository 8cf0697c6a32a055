"""The documentation page of the HTTP interface."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.api import build, client_of, is_error

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(build()) as client:
        yield client


async def test_the_page_loads_only_our_own_files(client: httpx.AsyncClient) -> None:
    """The page works without internet access, and no third-party script runs where users enter API keys."""
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "//" not in page.text
    assert "<script>" not in page.text  # the Content-Security-Policy forbids inline scripts
    loaded = set(re.findall(r'(?:href|src)="(?!data:)([^"]+)"', page.text))
    assert len(loaded) == 3
    for address in loaded:
        response = await client.get(page.url.join(address))
        assert response.status_code == 200
        kind = "text/css" if address.endswith(".css") else "text/javascript"
        assert response.headers["content-type"].startswith(kind)  # because of nosniff, a browser refuses any other type
    assert "SwaggerUIBundle" in (await client.get("/docs/swagger-ui-bundle.js")).text
    assert 'url: "openapi.json"' in (await client.get("/docs/start.js")).text


@pytest.mark.parametrize("path", ["/redoc", "/docs//x", "/docs/oauth2-redirect", "/docs/redoc.standalone.js"])
async def test_no_other_page_exists(client: httpx.AsyncClient, path: str) -> None:
    assert is_error(await client.get(path), 404, "not_found")

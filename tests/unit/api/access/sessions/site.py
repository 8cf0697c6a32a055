"""An API with sessions, and the browser of a user who has signed in."""

from __future__ import annotations

import functools
from http.cookies import SimpleCookie
from typing import Any

import httpx
from fastapi import FastAPI

from serve_app.api.access.sessions import COOKIE
from serve_app.schemas.streams import StreamSpec, StreamStatus
from serve_app.types import Principal
from tests.support.api import Keys, build, client_of
from tests.support.fakes import FakeMetrics, FakeStreams

HOST = "sightline.example"
OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Origin": f"https://{HOST}"}


@functools.cache
def shared_api(keys: Keys) -> tuple[FastAPI, FakeMetrics]:
    metrics = FakeMetrics()
    return build(keys=keys, metrics=metrics, streams=EmptyStreams()), metrics


class EmptyStreams(FakeStreams):
    """Fake streams that forget a new stream, so that the next test can create it."""

    async def create(self, spec: StreamSpec, who: Principal) -> StreamStatus:
        created = await super().create(spec, who)
        await self.delete(spec.id, who)
        return created


class Site:
    """An API with keys, a key of the client ``dock``, and the browser of a user who has signed in with it."""

    def __init__(self, keys: Keys, *scopes: str, **fields: Any) -> None:
        self.keys = keys
        self.header = keys.add("dock", *(scopes or ("detect", "streams", "jobs")), **fields)
        self.key = self.header["Authorization"].removeprefix("Bearer ")
        self.api, self.metrics = shared_api(keys)
        self.cookie = self.token = ""

    async def call(self, method: str, path: str, header: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        async with client_of(self.api, HOST) as client:
            return await client.request(method, path, headers=header or {}, **body)

    async def sign_in(self, key: str = "") -> httpx.Response:
        response = await self.call("POST", "/session", OWN_PAGE, json={"key": key or self.key})
        if response.status_code == 200:
            self.cookie = SimpleCookie(response.headers["set-cookie"])[COOKIE].value
            self.token = response.json()["csrf_token"]
        return response

    def browser(self, **header: str) -> dict[str, str]:
        """Return the headers of a request that the site's own page makes."""
        return OWN_PAGE | {"Cookie": f"{COOKIE}={self.cookie}", "X-CSRF-Token": self.token} | header

"""The HTTP interface: small routers over three ports. Knows neither Ray nor models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from serve_app import __version__
from serve_app.api import detect, docs, errors, health, models, openapi
from serve_app.api import streams as stream_routes
from serve_app.api.access.keys import KeyFile
from serve_app.api.access.middleware import Access
from serve_app.api.access.permissions import Router, RouteTable
from serve_app.api.backend import Backend, Metrics, Streams
from serve_app.config import AppArgs

_DESCRIPTION = "YOLO detection for images and live video on Ray Serve."
# So that browsers show no answer in pages elsewhere, nor take one for what it does not say it is.
_HEADERS = [(b"cross-origin-resource-policy", b"same-origin"), (b"x-content-type-options", b"nosniff")]

# Clients put together a base that ends in a slash and a path that begins with one, or end a path by one. We redirect
# nobody, since many do not send a body again: but for /docs/, since what that page loads would lie elsewhere.
_LEADING, _TRAILING = re.compile("^/{2,}"), re.compile("(?<!/docs)/+$")


def build_api(backend: Backend, streams: Streams, metrics: Metrics, args: AppArgs) -> FastAPI:
    """Return the ASGI application. Raises ConfigError for a keys' file that is missing or broken."""
    routers = (
        detect.router(backend, metrics, args),  # first: FastAPI tries each route in turn, at 4 us each
        docs.router(),
        health.router(backend),
        models.router(backend),
        stream_routes.router(streams),
    )
    api = _Api(routers)
    errors.register(api, metrics)
    key_file = KeyFile(args.access.keys_file) if args.access.keys_file else None
    api.add_middleware(Access, routes=api.route_table, metrics=metrics, args=args, key_file=key_file)
    return api


class _Api(FastAPI):
    """FastAPI whose document says what ``Access`` asks for, and whose every answer has ``_HEADERS``."""

    def __init__(self, routers: Sequence[Router]) -> None:
        super().__init__(
            title="Sightline",
            description=_DESCRIPTION,
            version=__version__,
            openapi_url=None,  # ``docs`` has these routes: FastAPI's declare no permission, and load others' scripts
            docs_url=None,
            redoc_url=None,
            generate_unique_id_function=lambda route: route.name,
        )
        self.router.redirect_slashes = False  # a redirect would go to whatever host the client names
        self.route_table = RouteTable(routers)
        for router in routers:
            self.include_router(router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See FastAPI."""
        if "path" in scope:
            scope["path"] = _TRAILING.sub("", _LEADING.sub("/", scope["path"])) or "/"

        async def send_on(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await super().__call__(scope, receive, send_on)

    def openapi(self) -> dict[str, Any]:
        """See FastAPI."""
        if self.openapi_schema is None:
            openapi.complete(super().openapi(), self.route_table)
        assert self.openapi_schema is not None
        return self.openapi_schema

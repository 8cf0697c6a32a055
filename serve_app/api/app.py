"""The FastAPI application, assembled from one router per group of routes.

This module does not import Ray or ``serve_app.models``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from serve_app import __version__
from serve_app.api import (
    console,
    detect,
    docs,
    errors,
    health,
    job_submission,
    models,
    openapi,
    overview,
    owners,
    previews,
    recordings,
    session,
)
from serve_app.api import drift as drift_routes
from serve_app.api import jobs as job_routes
from serve_app.api import streams as stream_routes
from serve_app.api.access.keys import KeyFile
from serve_app.api.access.middleware import Access
from serve_app.api.access.permissions import Router, RouteTable
from serve_app.api.access.reload import KeyReloader
from serve_app.api.access.sessions import Sessions
from serve_app.api.backend import Backend, Drift, Jobs, Metrics, Streams
from serve_app.api.compat.routers import routers as compat_routers
from serve_app.api.events import Followers
from serve_app.config import AppArgs

_DESCRIPTION = "YOLO detection for images, live video and batch jobs on Ray Serve."
# These headers stop browsers from embedding responses in other sites' pages and from guessing content types.
_HEADERS = [(b"cross-origin-resource-policy", b"same-origin"), (b"x-content-type-options", b"nosniff")]
# Web pages whose origins are in ``cors.origins`` may read these headers of responses.
_EXPOSED_HEADERS = (
    "ETag",
    "Inference-Header-Content-Length",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "X-Job-State",
    "X-Request-ID",
)

# Some clients join a base URL that ends in a slash with a path that begins with a slash. Others add a slash at the end.
# We strip the extra slashes instead of redirecting, because many clients do not send the body again after a redirect.
# Only /docs/ and /console/ redirect, because otherwise the relative links of these pages would be wrong.
_LEADING, _TRAILING = re.compile("^/{2,}"), re.compile("(?<!/docs)(?<!/console)/+$")


def build_api(backend: Backend, streams: Streams, jobs: Jobs, drift: Drift, metrics: Metrics, args: AppArgs) -> FastAPI:
    """Return the ASGI application. Raise ConfigError if the API-key file is missing or invalid."""
    followers = Followers()
    keys = KeyReloader(KeyFile(args.access.keys_file), metrics) if args.access.keys_file else None
    sessions = Sessions(args.streams.state_dir.expanduser().resolve())
    routers = (
        # /detect is first, because FastAPI tries the routes in order, and trying one takes 4 µs
        detect.router(backend, jobs, metrics, args),
        docs.router(),
        console.router(),
        session.sign_in_router(sessions, keys),
        session.router(),
        health.router(backend),
        models.router(backend),
        overview.router(backend, streams, jobs, drift),
        stream_routes.router(streams, backend, followers),
        previews.router(streams, followers),
        recordings.router(streams),
        job_submission.router(jobs, args),
        job_routes.router(jobs, followers),
        owners.router(streams, jobs),
        drift_routes.router(drift, streams),
        drift_routes.admin_router(drift),
        *compat_routers(backend, args),
    )
    api = _Api(routers)
    errors.register(api, metrics)
    api.add_middleware(Access, routes=api.route_table, metrics=metrics, args=args, keys=keys, sessions=sessions)
    if origins := args.cors.allowed():
        # This middleware is outside of Access, because a browser sends no API key in a preflight. It allows no cookies,
        # so a page of another site cannot use a session.
        api.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    return api


class _Api(FastAPI):
    """A FastAPI that adds the rules of ``Access`` to its OpenAPI document, and ``_HEADERS`` to every response."""

    def __init__(self, routers: Sequence[Router]) -> None:
        super().__init__(
            title="Sightline",
            description=_DESCRIPTION,
            version=__version__,
            # The module ``docs`` serves these URLs. FastAPI's own routes declare no permission and load third-party
            # scripts.
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            generate_unique_id_function=lambda route: route.name,
        )
        self.router.redirect_slashes = False  # a redirect would go to any host that the client names
        self.route_table = RouteTable(routers)
        for router in routers:
            self.include_router(router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Strip extra slashes from the path, and add ``_HEADERS`` to the response."""
        if "path" in scope:
            scope["path"] = _TRAILING.sub("", _LEADING.sub("/", scope["path"]))
            if scope["path"] == scope.get("root_path", "").rstrip("/"):
                scope["path"] += "/"

        async def send_on(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await super().__call__(scope, receive, send_on)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with permissions and refusals added."""
        if self.openapi_schema is None:
            openapi.complete(super().openapi(), self.route_table)
        assert self.openapi_schema is not None
        return self.openapi_schema

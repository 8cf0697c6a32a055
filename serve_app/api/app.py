"""The HTTP interface: small routers over one ``Pipeline``. Knows neither Ray nor models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from serve_app.api import detect, docs, errors, health, models
from serve_app.api import streams as stream_routes
from serve_app.api.access.keys import KeyFile
from serve_app.api.access.middleware import Access, scope_of
from serve_app.api.backend import Pipeline, Streams
from serve_app.config import AppArgs

_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key, where the application has any."}
_REFUSALS = {
    "400": "`malformed`: a body that breaks off, or one that came with a `GET`, `HEAD` or `DELETE`",
    "401": "`unauthorized`: no API key, or one that is unknown or has expired",
    "403": "`forbidden`: the key is not for this; without keys, the request is not this machine's own",
    "429": "`rate_limited`: more than the key may, with `Retry-After`",
}
# So that browsers show no answer in pages elsewhere, nor take one for what it does not say it is.
_HEADERS = [(b"cross-origin-resource-policy", b"same-origin"), (b"x-content-type-options", b"nosniff")]


def build_api(pipeline: Pipeline, streams: Streams, args: AppArgs) -> FastAPI:
    """The ASGI application. Raises ConfigError for a keys' file that is missing or broken."""
    description = "YOLO detection for images and live video on Ray Serve."
    api = _Api(title="Sightline", description=description, docs_url=None, redoc_url=None)  # theirs load others' scripts
    api.router.redirect_slashes = False  # a redirect would go to whatever host the client names
    api.include_router(docs.router())
    api.include_router(health.router(pipeline))
    api.include_router(detect.router(pipeline, args))
    api.include_router(models.router(pipeline))
    api.include_router(stream_routes.router(streams))
    errors.register(api, pipeline)
    key_file = KeyFile(args.access.keys_file) if args.access.keys_file else None
    api.add_middleware(Access, pipeline=pipeline, args=args, key_file=key_file)
    return api


class _Api(FastAPI):
    """Whose description says what ``Access`` asks for and answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See FastAPI; with ``_HEADERS`` on every answer."""

        async def send_on(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await super().__call__(scope, receive, send_on)

    def openapi(self) -> dict[str, Any]:
        """See FastAPI."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["securitySchemes"] = {"key": _SCHEME}
            form = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
            refusals = {code: {"description": text, "content": form} for code, text in _REFUSALS.items()}
            for path, operations in schema["paths"].items():
                if scope := scope_of(path):
                    for operation in operations.values():
                        operation["security"] = [{"key": [scope]}]
                        operation["responses"] = dict(sorted((refusals | operation["responses"]).items()))
        assert self.openapi_schema is not None
        return self.openapi_schema

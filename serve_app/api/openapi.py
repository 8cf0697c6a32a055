"""Complete the OpenAPI document that FastAPI makes: the permission that each operation needs, and its refusals."""

from __future__ import annotations

from typing import Any

from serve_app.api.access.permissions import RouteTable
from serve_app.types import Json

_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key, where the application has any."}
_REFUSALS = {
    "400": "`malformed`: a body that breaks off, or one that came with a `GET`, `HEAD` or `DELETE`",
    "401": "`unauthorized`: no API key, or one that is unknown or has expired",
    "403": "`forbidden`: the key lacks the permission; without keys, the request is not this machine's own",
    "429": "`rate_limited`: the key's rate or concurrency limit is exceeded, with `Retry-After`",
    "503": "`overloaded`: `limits.max_requests` are in flight, with `Retry-After`",
}


def complete(document: Json, routes: RouteTable) -> None:
    """Add each operation's permission, as its router declares it, and the refusals of ``Access``."""
    document["components"]["securitySchemes"] = {"key": _SCHEME}
    form = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    refusals: dict[str, Any] = {code: {"description": text, "content": form} for code, text in _REFUSALS.items()}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = routes.find({"type": "http", "method": method.upper(), "path": path})
            assert route is not None  # else a route is in no Router, and answers nobody
            if route.permission is None:
                operation["description"] += "\n\nIt needs no API key."
                continue
            operation["description"] += f"\n\nIt needs an API key with the permission `{route.permission}`."
            operation["security"] = [{"key": [route.permission]}]
            operation["responses"] = dict(sorted((refusals | operation["responses"]).items()))

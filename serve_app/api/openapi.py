"""Complete the OpenAPI document that FastAPI makes: the permission that each operation needs, and its refusals."""

from __future__ import annotations

from serve_app.api.access.permissions import RouteTable
from serve_app.types import Json

_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key, where the application has any."}
_FORM = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
_REFUSALS = {
    "400": "`malformed`: a body that breaks off, or one that came with a `GET`, `HEAD` or `DELETE`",
    "401": "`unauthorized`: no API key, or one that is unknown or has expired",
    "403": "`forbidden`: the key lacks the permission; without keys, the request is not this machine's own",
    "429": "`rate_limited`: the key's rate or concurrency limit is exceeded, with `Retry-After`",
    "503": "`overloaded`: `limits.max_requests` are in flight, with `Retry-After`",
}
_BODY_REFUSALS = {
    "413": "`too_large`: more than 1 MiB of JSON",
    "415": "`unsupported_encoding`: a `Content-Encoding` other than gzip and deflate",
    "504": "`deadline_exceeded`: the body was not complete within `limits.deadline_s`",
}
_FASTAPIS_OWN = {"HTTPValidationError", "ValidationError"}  # forms of errors that we do not send


def complete(document: Json, routes: RouteTable) -> None:
    """Add each operation's permission, as its router declares it, and the refusals of ``Access``."""
    components = document["components"]
    components["schemas"] = {name: form for name, form in components["schemas"].items() if name not in _FASTAPIS_OWN}
    components["securitySchemes"] = {"key": _SCHEME}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = routes.find({"type": "http", "method": method.upper(), "path": path})
            assert route is not None  # else a route is in no Router, and answers nobody
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                responses["422"] = _refusal("`invalid_parameter`: a parameter is out of range or of the wrong type")
            if route.permission is None:
                operation["description"] += "\n\nIt needs no API key."
                continue
            operation["description"] += f"\n\nWhere there are API keys, it needs the permission `{route.permission}`."
            operation["security"] = [{"key": [route.permission]}]
            texts = _REFUSALS | (_BODY_REFUSALS if "requestBody" in operation else {})
            refusals = {status_code: _refusal(text) for status_code, text in texts.items()}
            operation["responses"] = dict(sorted((refusals | responses).items()))


def _refusal(description: str) -> Json:
    return {"description": description, "content": _FORM}

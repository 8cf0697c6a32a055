"""Add each operation's permission, and the errors of the middleware ``Access``, to FastAPI's OpenAPI document."""

from __future__ import annotations

from pydantic import BaseModel

from serve_app.api.access.permissions import RouteTable
from serve_app.schemas.jobs import JobSpec
from serve_app.schemas.session import SignIn
from serve_app.types import Json

_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. It is needed only if the server has API keys. Instead, a browser can send the cookie "
    "of a session: see `POST /session`.",
}
_ERROR_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
_REFUSALS = {
    "400": "`malformed`: the body is incomplete, or a `GET`, `HEAD` or `DELETE` request has a body",
    "401": "`unauthorized`: the API key is missing, unknown or expired",
    "403": "`forbidden`: the API key lacks the permission; or the server has no API keys and the request is not local; "
    "or a request with a session's cookie lacks `X-CSRF-Token`, or comes from a page of another site",
    "429": "`rate_limited`: the API key's rate or concurrency limit is exceeded, with `Retry-After`",
    "503": "`overloaded`: `limits.max_requests` requests are in flight, with `Retry-After`",
}
_BODY_REFUSALS = {
    "413": "`too_large`: the JSON body is larger than 1 MiB",
    "415": "`unsupported_encoding`: the `Content-Encoding` is neither `gzip` nor `deflate`",
    "504": "`deadline_exceeded`: the body was not complete within `limits.deadline_s`",
}
_UNUSED_SCHEMAS = {"HTTPValidationError", "ValidationError"}  # FastAPI's error schemas, which this server never uses


def complete(document: Json, routes: RouteTable) -> None:
    """Add each operation's permission, which its router declares, and the errors of the middleware ``Access``."""
    components = document["components"]
    components["schemas"] = {name: form for name, form in components["schemas"].items() if name not in _UNUSED_SCHEMAS}
    components["securitySchemes"] = {"key": _SCHEME}
    _add_schema(components["schemas"], JobSpec)
    _add_schema(components["schemas"], SignIn)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = routes.find({"type": "http", "method": method.upper(), "path": path})
            assert route is not None  # a route without a Router would respond 404 to every request
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                responses["422"] = _refusal("`invalid_parameter`: a parameter is out of range or of the wrong type")
            if route.permission is None:
                operation["description"] += "\n\nThis operation needs no API key."
                continue
            needed = "any API key" if route.permission == "any" else f"the permission `{route.permission}`"
            operation["description"] += f"\n\nIf the server has API keys, this operation needs {needed}."
            operation["security"] = [{"key": [] if route.permission == "any" else [route.permission]}]
            texts = _REFUSALS | (_BODY_REFUSALS if "requestBody" in operation else {})
            if route.reads_own_body:
                texts.pop("413", None)  # such a route has another limit, which its router describes
            refusals = {status_code: _refusal(text) for status_code, text in texts.items()}
            operation["responses"] = dict(sorted((refusals | responses).items()))


def _add_schema(schemas: Json, model: type[BaseModel]) -> None:
    """Add the schema of a body that a route reads itself, so that FastAPI does not know it."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, part in (*schema.pop("$defs", {}).items(), (model.__name__, schema)):
        schemas.setdefault(name, part)


def _refusal(description: str) -> Json:
    return {"description": description, "content": _ERROR_CONTENT}

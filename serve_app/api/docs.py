"""``/docs``: the interface, described by Swagger UI. Its page takes nothing from another origin: no internet is needed,
and nobody else's script runs beside an API key."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from serve_app.errors import NotFound

_ASSETS = Path(str(files("fastapi_offline"))) / "static"  # of the package we use Swagger UI's files alone
_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
# Swagger UI's pictures are data in its style sheet, and it sets styles of its own.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Addresses are relative: the application may lie below another root.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sightline</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# The validator would be told our address.
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'


def router() -> APIRouter:
    """The page, and what it loads."""
    routes = APIRouter(prefix="/docs", include_in_schema=False)

    @routes.get("")
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @routes.get("/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @routes.get("/{name}")
    async def file(name: str) -> FileResponse:
        if name not in _FILES:
            raise NotFound("no such route")
        return FileResponse(_ASSETS / name, media_type=_FILES[name])

    return routes

"""The route ``/openapi.json`` returns a description of the API, and ``/docs`` shows the description with Swagger UI.

The page loads nothing from another origin. It therefore works without internet access, and no third-party script runs
on the page where users enter API keys.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from serve_app.api.access.permissions import Router
from serve_app.errors import NotFound

_ASSETS = Path(str(files("fastapi_offline"))) / "static"  # we use only Swagger UI from fastapi_offline
_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
# The Content-Security-Policy allows data URLs and inline styles. Swagger UI's style sheet contains images as data URLs,
# and Swagger UI's script sets inline styles.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The links are relative, because the application may be mounted below a root path.
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
# Without ``validatorUrl: null``, Swagger UI would send the server's address to an online validator.
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'


def router() -> Router:
    """Return the routes for the OpenAPI document, the page, and the files that the page loads."""
    routes = Router(permission=None, include_in_schema=False)

    @routes.head("/openapi.json")
    @routes.get("/openapi.json")
    async def document(request: Request) -> JSONResponse:
        described = request.app.openapi()
        root_path = request.scope.get("root_path", "").rstrip("/")
        return JSONResponse(described | {"servers": [{"url": root_path}]} if root_path else described)

    @routes.get("/docs")
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @routes.get("/docs/")
    async def slashed_page() -> RedirectResponse:
        return RedirectResponse("../docs", 308)  # a relative URL, so the response contains no host name

    @routes.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @routes.get("/docs/{name}")
    async def file(name: str) -> FileResponse:
        if name not in _FILES:
            raise NotFound("no such route; /docs lists the routes")
        return FileResponse(_ASSETS / name, media_type=_FILES[name])

    return routes

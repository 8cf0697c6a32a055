"""The page at ``/console``, whose files are in the package, and ``/``, which leads to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from serve_app.api.access.permissions import Router
from serve_app.api.negotiation import prefers_page
from serve_app.api.ranges import matches
from serve_app.errors import NotFound

_FOLDER = Path(str(files("serve_app"))) / "console"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
# The page loads nothing from other hosts, runs only its own files, and cannot be shown inside another page. It shows
# images that it has received as blobs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; font-src 'self'; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser asks each time whether the file has changed
}
_LINKS = {
    "console": "/console",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "health": "/health",
    "ready": "/readyz",
}


@dataclass(frozen=True)
class _File:
    """A file of the page."""

    data: bytes
    media_type: str
    etag: str


def router() -> Router:
    """Return the routes of the page. They need no API key, because the files contain no secrets.

    The files are read now. No path from a client is ever used to open a file.
    """
    routes = Router(permission=None, include_in_schema=False)
    pages = _files(_FOLDER)

    @routes.head("/")
    @routes.get("/")
    async def start(request: Request) -> Response:
        root_path = request.scope.get("root_path", "").rstrip("/")
        if prefers_page(request.headers.getlist("accept")):
            # A relative URL, so the response contains no host name.
            return RedirectResponse(f"{root_path}/console", 307, headers={"Vary": "Accept"})
        links = {name: root_path + path for name, path in _LINKS.items()}
        return JSONResponse({"name": "Sightline", "links": links}, headers={"Vary": "Accept"})

    @routes.head("/console")
    @routes.get("/console")
    async def page(request: Request) -> Response:
        return _respond(request, pages, "index.html")

    @routes.head("/console/{path:path}")
    @routes.get("/console/{path:path}")
    async def file(request: Request, path: str) -> Response:
        if path in {"", "index.html"}:  # where the page's relative links would be wrong
            return RedirectResponse("../console")
        return _respond(request, pages, path)

    return routes


def _files(folder: Path) -> dict[str, _File]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            data = path.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[path.relative_to(folder).as_posix()] = _File(data, _TYPES[path.suffix], etag)
    return found


def _respond(request: Request, pages: dict[str, _File], path: str) -> Response:
    one = pages.get(path)
    if one is None:
        raise NotFound("no such route; /docs lists the routes")
    headers = _HEADERS | {"ETag": one.etag}
    if matches(request.headers.get("if-none-match"), one.etag):
        return Response(status_code=304, headers=headers)
    return Response(one.data, media_type=one.media_type, headers=headers)

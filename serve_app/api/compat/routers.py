"""The routers of all protocols that are enabled."""

from __future__ import annotations

from serve_app.api.access.permissions import Router
from serve_app.api.backend import Backend
from serve_app.api.compat import deepstack, open_inference, roboflow, ultralytics
from serve_app.api.compat.pictures import Pictures
from serve_app.config import AppArgs


def routers(backend: Backend, args: AppArgs) -> tuple[Router, ...]:
    """Return the routers of each protocol whose section in ``compat`` has ``enabled: true``."""
    compat = args.compat
    if not compat.is_enabled:
        return ()
    pictures = Pictures(backend, args)
    found: list[Router] = []
    if compat.deepstack.enabled:
        found += deepstack.routers(pictures, compat.deepstack)
    if compat.open_inference.enabled:
        found += open_inference.routers(backend, pictures, compat.open_inference)
    if compat.ultralytics.enabled:
        found += ultralytics.routers(pictures)
    if compat.roboflow.enabled:
        found += roboflow.routers(pictures)
    return tuple(found)

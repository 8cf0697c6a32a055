"""The HTTP interface: small routers over one ``Pipeline``. Knows neither Ray nor models."""

from __future__ import annotations

from fastapi import FastAPI

from serve_app.api import detect, errors, health
from serve_app.api import streams as stream_routes
from serve_app.api.pipeline import Pipeline, Streams
from serve_app.config import AppArgs


def build_api(pipeline: Pipeline, streams: Streams, args: AppArgs) -> FastAPI:
    """The ASGI application."""
    api = FastAPI(title="Sightline", description="YOLO detection for images and live video on Ray Serve.")
    api.include_router(health.router(pipeline))
    api.include_router(detect.router(pipeline, args))
    api.include_router(stream_routes.router(streams))
    errors.register(api, pipeline)
    return api

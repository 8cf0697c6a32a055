"""What Ray offers only under private names, in one place. Each has a test."""

from __future__ import annotations

import asyncio

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState

from serve_app.errors import (
    Unavailable,
)


def running_replicas(application: str) -> dict[str, int]:
    """How many replicas of each deployment run. Blocks. Raises Unavailable."""
    try:
        status = serve.status().applications.get(application)
    except RayError as exc:
        raise Unavailable("Serve's controller does not answer") from exc
    deployments = status.deployments if status else {}
    return {name: one.replica_states.get(ReplicaState.RUNNING, 0) for name, one in deployments.items()}


async def http_host() -> str | None:
    """The address on which Serve listens for HTTP: with HAProxy every one, unless the config says otherwise."""
    host: str | None = (await asyncio.to_thread(_get_global_client)).http_config.host
    return host

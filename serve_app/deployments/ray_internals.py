"""What Ray offers only under private names, in one place. Each has a test."""

from __future__ import annotations

import asyncio
import shlex
import sys
from typing import Any

import ray
from ray import serve
from ray._private.worker import global_worker
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState

from serve_app.errors import Unavailable

_GCS_TIMEOUT_S = 5.0


def runtime_env(variables: dict[str, str]) -> dict[str, Any]:
    """Return the ``runtime_env`` of an actor that has these variables.

    A process with a runtime environment is started by a shell, for which Ray quotes everything but the interpreter
    (``RuntimeEnvContext.exec_worker``): below a folder like "my project" none would start. An interpreter that needs no
    quotes is left to Ray, since on another node it may be another one.
    """
    quoted = shlex.quote(sys.executable)
    interpreter = {} if quoted == sys.executable else {"py_executable": quoted}
    return {"env_vars": variables, **interpreter}


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


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that will be taken away soon, and get no new actors. Blocks.

    ``ray drain-node`` marks a node so, as do autoscalers before they end one. Returns none where Ray cannot tell.
    """
    try:
        return set(global_worker.gcs_client.get_draining_nodes(timeout=_GCS_TIMEOUT_S))
    except Exception:  # the head is away, or is starting again
        return set()


def is_application_gone(application: str) -> bool:
    """Return whether the application was deleted or Serve was shut down; False where that is not known. Blocks.

    A controller that is restarting does not mean that the application is gone.
    """
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return True
    except Exception:  # whatever it is, it does not say that the application is gone
        return False
    try:
        status = serve.status().applications.get(application)
    except Exception:
        return False
    return status is None or status.status == "DELETING"


def most_replicas(application: str, deployment: str) -> int:
    """Return how many replicas a deployment has, or how many autoscaling may start. Blocks."""
    details = _get_global_client().get_serve_details()["applications"][application]["deployments"][deployment]
    scaling = details["deployment_config"].get("autoscaling_config") or {}
    return int(scaling.get("max_replicas") or details["target_num_replicas"])

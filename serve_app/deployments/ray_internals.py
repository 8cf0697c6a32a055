"""All uses of private names of Ray, in one place. Each use has a test."""

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
    """Return the ``runtime_env`` for an actor with these environment variables.

    Ray starts a process with a runtime environment through a shell, and quotes everything except the interpreter
    (``RuntimeEnvContext.exec_worker``). In a folder such as "my project" the process would not start, so we quote the
    interpreter here. If it needs no quotes we let Ray choose it, because its path may differ on another node.
    """
    quoted = shlex.quote(sys.executable)
    interpreter = {} if quoted == sys.executable else {"py_executable": quoted}
    return {"env_vars": variables, **interpreter}


def running_replicas(application: str) -> dict[str, int]:
    """Return the number of running replicas by deployment. This blocks. Raise Unavailable if Serve does not answer."""
    try:
        status = serve.status().applications.get(application)
    except RayError as exc:
        raise Unavailable("Serve's controller does not answer; retry later") from exc
    deployments = status.deployments if status else {}
    return {name: one.replica_states.get(ReplicaState.RUNNING, 0) for name, one in deployments.items()}


async def http_host() -> str | None:
    """Return the address on which Serve listens for HTTP. With HAProxy the default is all addresses."""
    host: str | None = (await asyncio.to_thread(_get_global_client)).http_config.host
    return host


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are draining and get no new actors. This blocks.

    ``ray drain-node`` makes a node drain, and autoscalers do so before they remove it. The result is empty if Ray's
    head does not answer.
    """
    try:
        return set(global_worker.gcs_client.get_draining_nodes(timeout=_GCS_TIMEOUT_S))
    except Exception:  # Ray's head is down or restarting
        return set()


def is_application_gone(application: str) -> bool:
    """Return whether the application was deleted or Serve was shut down; False if unknown. This blocks.

    A controller that is restarting does not mean that the application is gone.
    """
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return True
    except Exception:  # no other error proves that the application is gone
        return False
    try:
        status = serve.status().applications.get(application)
    except Exception:
        return False
    return status is None or status.status == "DELETING"


def max_replica_count(application: str, deployment: str) -> int:
    """Return the number of replicas of a deployment, or the maximum if it is autoscaled. This blocks."""
    details = _get_global_client().get_serve_details()["applications"][application]["deployments"][deployment]
    scaling = details["deployment_config"].get("autoscaling_config") or {}
    return int(scaling.get("max_replicas") or details["target_num_replicas"])

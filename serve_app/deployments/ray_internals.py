"""Functions that use private APIs of Ray. Tests check that Ray still has each of these APIs."""

from __future__ import annotations

import asyncio
import shlex
import sys
from typing import Any

import ray
from ray import serve
from ray._private.ray_constants import KV_NAMESPACE_DASHBOARD
from ray._private.worker import global_worker
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ReplicaState

from serve_app.errors import Unavailable

_GCS_TIMEOUT_S = 5.0


def runtime_env(variables: dict[str, str]) -> dict[str, Any]:
    """Return the ``runtime_env`` for an actor with these environment variables.

    Ray starts such an actor through a shell, and quotes everything except the interpreter's path
    (``RuntimeEnvContext.exec_worker``). An interpreter in a folder such as "my project" would not start, so we pass a
    quoted path. If the path needs no quotes, we let Ray choose the interpreter, because its path may differ on another
    node.
    """
    quoted = shlex.quote(sys.executable)
    interpreter = {} if quoted == sys.executable else {"py_executable": quoted}
    return {"env_vars": variables, **interpreter}


def running_replicas(application: str) -> dict[str, int]:
    """Return each deployment's number of running replicas. This call blocks.

    ``serve.status()`` would also check all of the answer with pydantic, which takes about 50 ms of CPU time.

    Raise Unavailable if Serve does not answer.
    """
    try:
        deployments = _deployments(application)
    except (RayError, RayServeException) as exc:
        raise Unavailable("Serve's controller does not answer; retry later") from exc
    return {
        name: sum(replica["state"] == ReplicaState.RUNNING for replica in one["replicas"])
        for name, one in deployments.items()
    }


async def http_host() -> str | None:
    """Return the address on which Serve listens for HTTP, or None. With HAProxy, None means all addresses."""
    host: str | None = (await asyncio.to_thread(_get_global_client)).http_config.host
    return host


def dashboard_url() -> str | None:
    """Return the address of Ray's dashboard, or None if no dashboard runs or Ray's head is down. This call blocks.

    ``get_dashboard_url`` is right only in a driver: in a worker, it always returns the default port.
    """
    try:
        address = global_worker.gcs_client.internal_kv_get(b"webui:url", KV_NAMESPACE_DASHBOARD, timeout=_GCS_TIMEOUT_S)
    except Exception:  # Ray's head is down or restarting
        return None
    return f"http://{address.decode()}" if address else None


def draining_nodes() -> set[str]:
    """Return the ids of the draining nodes. This call blocks.

    Ray starts no new actors on a draining node. A node drains after ``ray drain-node``, and before an autoscaler
    removes it. The result is empty if Ray's head does not answer.
    """
    try:
        return set(global_worker.gcs_client.get_draining_nodes(timeout=_GCS_TIMEOUT_S))
    except Exception:  # Ray's head is down or restarting
        return set()


def is_application_gone(application: str) -> bool:
    """Return whether the application was deleted or Serve was shut down. This call blocks.

    Return False if the application's state is not known, for example while Serve's controller restarts.
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
    """Return a deployment's number of replicas, or its ``max_replicas`` if it is autoscaled. This call blocks."""
    details = _deployments(application)[deployment]
    scaling = details["deployment_config"].get("autoscaling_config") or {}
    return int(scaling.get("max_replicas") or details["target_num_replicas"])


def _deployments(application: str) -> dict[str, Any]:
    """Return what Serve's controller knows of the deployments of an application. This call blocks."""
    details = _get_global_client().get_serve_details()["applications"].get(application, {})
    deployments: dict[str, Any] = details.get("deployments", {})
    return deployments

"""The whole application on one screen; ``serve_app.app:build_app`` is the import path of every config."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve_app.config import parse_args
from serve_app.deployments.detector import Detector
from serve_app.deployments.handles import detector_name
from serve_app.deployments.ingress import Ingress
from serve_app.deployments.preprocessor import Preprocessor
from serve_app.deployments.stream_supervisor import StreamSupervisor
from serve_app.deployments.stubs import SUPERVISOR_MAX_CALLS

# A full replica is asked again after at most this long (Serve's default is 0.5 s, in which an engine would idle).
_ROUTER = RequestRouterConfig(initial_backoff_s=0.005, max_backoff_s=0.02)
# A dead replica is noticed at its next health check, one that does not answer at the third.
_COMMON: dict[str, Any] = {"request_router_config": _ROUTER, "health_check_period_s": 1, "health_check_timeout_s": 10}
# Of what was accepted, when the application is deleted: who is called outlasts who calls.
_INGRESS_DRAINS_S, _PREPROCESSOR_DRAINS_S, _DETECTOR_DRAINS_S = 30, 35, 40


def build_app(args: dict[str, Any]) -> Application:
    """The graph, from the ``args:`` of a Serve config. Raises ConfigError.

    What a config's ``deployments:`` says of a deployment stands above what is set here.
    """
    app_args = parse_args(args)
    slots, batcher = app_args.preprocessor.slots, app_args.batcher
    detectors = {
        model: serve.deployment(
            Detector,
            name=detector_name(model),
            ray_actor_options={"num_cpus": 0.5},
            max_ongoing_requests=batcher.max_calls,  # never full, so that Serve's router never backs off
            graceful_shutdown_timeout_s=_DETECTOR_DRAINS_S,
            **_COMMON,
        ).bind(detector_args)
        for model, detector_args in app_args.detectors().items()
    }
    preprocessor = serve.deployment(
        Preprocessor,
        ray_actor_options={"num_cpus": 0.2},
        max_ongoing_requests=slots,  # a slot for each request in flight: a lease never waits
        max_queued_requests=app_args.preprocessor.max_calls - slots,  # of an Ingress on another node
        graceful_shutdown_timeout_s=_PREPROCESSOR_DRAINS_S,
        **_COMMON,
    ).bind(detectors, app_args)
    supervisor = serve.deployment(
        StreamSupervisor,
        num_replicas=1,  # it holds the store
        ray_actor_options={"num_cpus": 0.05},
        max_ongoing_requests=SUPERVISOR_MAX_CALLS,
        **_COMMON,
    ).bind(detectors, app_args)
    ingress = serve.deployment(
        Ingress,
        ray_actor_options={"num_cpus": 0.1},
        # Never reached: the API refuses before. Of what Serve queues it reads the bodies, without a limit.
        max_ongoing_requests=2 * app_args.limits.max_requests,
        max_queued_requests=app_args.limits.max_requests,
        graceful_shutdown_timeout_s=_INGRESS_DRAINS_S,
        **_COMMON,
    )
    return ingress.bind(preprocessor, supervisor, app_args)

"""The application graph. Every config names ``serve_app.app:build_app`` as its import path."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve_app.config import CeleryArgs, parse_args
from serve_app.deployments.detector import Detector
from serve_app.deployments.drift_monitor import DriftMonitor
from serve_app.deployments.handles import detector_name
from serve_app.deployments.ingress import Ingress
from serve_app.deployments.job_runner import JobRunner
from serve_app.deployments.job_supervisor import JobSupervisor
from serve_app.deployments.preprocessor import Preprocessor
from serve_app.deployments.stream_supervisor import StreamSupervisor
from serve_app.deployments.stubs import JOB_RUNNER_UNITS, SUPERVISOR_MAX_CALLS
from serve_app.errors import StartError
from serve_app.streams.publication import check_broker

# If all replicas are full, Serve's router tries again after these delays. Serve's default of up to 0.5 s
# would leave an engine idle.
_ROUTER = RequestRouterConfig(initial_backoff_s=0.005, max_backoff_s=0.02)
# Serve replaces a dead replica at the next health check. If a replica is alive but does not answer, Serve replaces the
# replica when three health checks in a row have failed.
_COMMON: dict[str, Any] = {"request_router_config": _ROUTER, "health_check_period_s": 1, "health_check_timeout_s": 10}
# When the application is deleted, each deployment may take this time to finish its accepted requests. A deployment gets
# more time than the deployments that call it.
_INGRESS_DRAIN_TIMEOUT_S, _PREPROCESSOR_DRAIN_TIMEOUT_S, _DETECTOR_DRAIN_TIMEOUT_S = 30, 35, 40
_RUNNER_DRAIN_TIMEOUT_S = 60  # a JobRunner that is no longer needed finishes its units, which take a few seconds
# No JobRunner runs while there is no job.
_RUNNER_SCALING = {
    "min_replicas": 0,
    "max_replicas": 1,
    "target_ongoing_requests": JOB_RUNNER_UNITS,
    "upscale_delay_s": 0,
    "downscale_delay_s": 60,
}


def build_app(args: dict[str, Any]) -> Application:
    """Build the graph from the ``args:`` of a Serve config. Raise ConfigError if a setting is wrong.

    The ``deployments:`` section of the config overrides the deployment options set here.
    """
    app_args = parse_args(args)
    check_broker(app_args.mqtt)
    slots, batcher = app_args.preprocessor.slots, app_args.batcher
    drift_monitor = serve.deployment(
        DriftMonitor,
        num_replicas=1,  # only one process may open the store of drift
        ray_actor_options={"num_cpus": 0.02},
        max_ongoing_requests=SUPERVISOR_MAX_CALLS,
        **_COMMON,
    ).bind(app_args)
    detectors = {
        model: serve.deployment(
            Detector,
            name=detector_name(model),
            ray_actor_options={"num_cpus": 0.5},
            max_ongoing_requests=batcher.max_calls,  # our limits are lower, so a replica is never full
            graceful_shutdown_timeout_s=_DETECTOR_DRAIN_TIMEOUT_S,
            **_COMMON,
        ).bind(detector_args, app_args.jobs.scaling_share)
        for model, detector_args in app_args.detectors().items()
    }
    preprocessor = serve.deployment(
        Preprocessor,
        ray_actor_options={"num_cpus": 0.2},
        max_ongoing_requests=slots,  # so that no accepted request waits for a slot
        max_queued_requests=app_args.preprocessor.max_calls - slots,  # calls from other nodes may queue
        graceful_shutdown_timeout_s=_PREPROCESSOR_DRAIN_TIMEOUT_S,
        **_COMMON,
    ).bind(detectors, app_args, drift_monitor)
    supervisor = serve.deployment(
        StreamSupervisor,
        num_replicas=1,  # only one process may write the stream store
        ray_actor_options={"num_cpus": 0.05},
        max_ongoing_requests=SUPERVISOR_MAX_CALLS,
        **_COMMON,
    ).bind(detectors, app_args, drift_monitor)
    runner = serve.deployment(
        JobRunner,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=2 * JOB_RUNNER_UNITS,  # more than the units, so that a client's request for an image fits
        graceful_shutdown_timeout_s=_RUNNER_DRAIN_TIMEOUT_S,
        autoscaling_config=_RUNNER_SCALING,
        **_COMMON,
    ).bind(detectors, app_args, drift_monitor)
    job_supervisor = serve.deployment(
        JobSupervisor,
        num_replicas=1,  # only one process may open the store of jobs
        ray_actor_options={"num_cpus": 0.02},
        max_ongoing_requests=SUPERVISOR_MAX_CALLS,
        **_COMMON,
    ).bind(runner, app_args)
    ingress = serve.deployment(
        Ingress,
        ray_actor_options={"num_cpus": 0.1},
        # The API refuses requests above ``limits.max_requests``, so Serve never reaches these limits and queues
        # nothing. This matters because Serve reads the body of a queued request into memory without a size limit.
        max_ongoing_requests=2 * app_args.limits.max_requests,
        max_queued_requests=app_args.limits.max_requests,
        graceful_shutdown_timeout_s=_INGRESS_DRAIN_TIMEOUT_S,
        **_COMMON,
    )
    inlets = [_inlet(app_args.jobs.celery, job_supervisor)] if app_args.jobs.celery.broker_url else []
    return ingress.bind(preprocessor, supervisor, job_supervisor, drift_monitor, detectors, app_args, *inlets)


def _inlet(args: CeleryArgs, job_supervisor: Application) -> Application:
    """Return the deployment that takes tasks from a Celery queue. Raise StartError if Celery is not installed."""
    try:
        from serve_app.deployments.job_inlet import bind_inlet
    except ImportError as exc:
        raise StartError("jobs.celery needs Celery; run: pip install 'sightline[celery]'") from exc
    return bind_inlet(args, job_supervisor, {"ray_actor_options": {"num_cpus": 0.05}, **_COMMON})

"""Check that a config is valid and that this machine can serve it, before Ray starts."""

from __future__ import annotations

import os
import shutil
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from serve_app.api.access.keys import KeyFile
from serve_app.api.access.local import require_keys
from serve_app.api.compat.names import ModelNames
from serve_app.config import AccessArgs, AppArgs, DetectorArgs, parse_args
from serve_app.deployments.autoscaling import TargetUtilisation
from serve_app.deployments.folders import check_collection, check_folders
from serve_app.deployments.handles import detector_name
from serve_app.drift.webhook import open_webhook
from serve_app.errors import ConfigError, SharedMemoryError
from serve_app.ipc import dev_shm
from serve_app.ipc.dev_shm import FOLDER
from serve_app.ipc.frame_pool import pool_bytes
from serve_app.models.published import Progress
from serve_app.models.weights import check_weights
from serve_app.network.ports import check_port
from serve_app.streams.publication import check_broker
from serve_app.telemetry.cloudwatch.outlets import open_outlet
from serve_app.types import InputShape, Json

IMPORT_PATH = "serve_app.app:build_app"
# Serve accepts a colon or a dot before the name of a class.
_POLICY = {f"serve_app.deployments.autoscaling{sign}TargetUtilisation" for sign in ":."}
_DEPLOYMENTS = ("Ingress", "Preprocessor", "StreamSupervisor", "JobSupervisor", "JobRunner", "DriftMonitor")
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}


def read(path: Path) -> Json:
    """Return the Serve config in a file. Raise ConfigError if the config is not valid, or has an unknown key.

    Serve itself would ignore an unknown key, for example a misspelt one.
    """
    try:
        config = yaml.safe_load(path.read_bytes())  # as bytes, because text would depend on the locale
        ServeDeploySchema.model_validate(config)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except yaml.reader.ReaderError as exc:
        raise ConfigError(f"{path} is not text in UTF-8 ({exc.reason} at {exc.position}): save it as UTF-8") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(exc).split())}") from exc
    except (AttributeError, ImportError) as exc:  # the schema's validation imports policy functions
        raise ConfigError(f"{path}: a policy_function cannot be imported: {exc}") from exc
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in exc.errors())
        raise ConfigError(f"{path} is not a Serve config: {'; '.join(problems)}") from exc
    if unknown := unknown_keys(config, ServeDeploySchema):
        raise ConfigError(f"{path}: Serve has no setting {', '.join(unknown)}: remove or correct it")
    return config  # type: ignore[no-any-return]


def check(config: Json, progress: Progress | None = None) -> None:
    """Check that this machine can serve the config. If it cannot, raise StartError with one sentence for the user.

    Published models are fetched, with reports to ``progress``.
    """
    dev_shm.sweep()  # shared memory left behind by killed processes must not count as used
    http = config.get("http_options", {})
    check_port(http.get("host", "0.0.0.0"), http.get("port", 8000), "http_options.port")
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for variable, port in HAPROXY_PORTS.items():
            check_port("127.0.0.1", os.environ.get(variable, port), variable)
    for application, args, detectors, deployments in applications_of(config):
        check_keys(args.access, http.get("host", "0.0.0.0"))
        check_broker(args.mqtt)
        check_folders(args.streams, application)
        check_collection(args.collect)
        check_shared_memory(args, detectors, deployments)
        for detector in detectors:
            check_weights(detector.model, progress)  # last, because it may download


def check_keys(access: AccessArgs, host: str) -> None:
    """Raise ConfigError if other machines could reach the service without a key, or if the keys file is not valid."""
    require_keys(access, host)
    if access.keys_file:
        KeyFile(access.keys_file)


def check_args(config: Json) -> None:
    """Check only the settings of a config, and not this machine. Raise ConfigError if a setting is wrong."""
    for _ in applications_of(config):
        pass


def applications_of(config: Json) -> Iterator[tuple[str, AppArgs, list[DetectorArgs], dict[str, Json]]]:
    """Yield four values for each Sightline application in the config. Raise ConfigError if a setting is wrong.

    The values are the application's name, its settings, the settings of each of its Detectors, and a dictionary from
    each deployment's name to its entry in ``deployments:``.
    """
    for application in config["applications"]:
        if application["import_path"] == IMPORT_PATH:
            args = parse_args(application.get("args", {}))
            open_webhook(args.drift, args.outbound.guard())  # raises ConfigError
            if args.compat.is_enabled:
                ModelNames(args)  # raises ConfigError
            if args.telemetry.cloudwatch:
                open_outlet(args.telemetry.cloudwatch)  # raises ConfigError, and connects to nothing
            deployments = {one["name"]: one for one in application.get("deployments", [])}
            detectors = {detector_name(model): detector for model, detector in args.detectors().items()}
            known = {*_DEPLOYMENTS, *detectors}
            if unknown := sorted(deployments.keys() - known):
                raise ConfigError(f"deployments: {', '.join(unknown)} does not exist: use {', '.join(sorted(known))}")
            for name, deployment in deployments.items():
                _check_policy(name, (deployment.get("autoscaling_config") or {}).get("policy") or {})
            changed = (
                detector.with_user_config(deployments.get(name, {}).get("user_config"))
                for name, detector in detectors.items()
            )
            yield application.get("name", "default"), args, list(changed), deployments


def _check_policy(deployment: str, policy: Json) -> None:
    """Check an autoscaling policy.

    If a policy is wrong, Serve's controller retries it forever and reports no error, so we check the policy first.
    """
    if not isinstance(policy, dict):
        raise ConfigError(
            f"{deployment}: autoscaling_config.policy: must have the keys policy_function and policy_kwargs"
        )
    if policy.get("policy_function") in _POLICY:
        try:
            TargetUtilisation(**policy.get("policy_kwargs") or {})
        except (ConfigError, TypeError) as exc:
            raise ConfigError(f"{deployment}: autoscaling_config.policy: {exc}") from exc


def unknown_keys(value: Json, schema: type[BaseModel], path: str = "") -> list[str]:
    """Return the path of each key for which the schema has no field, such as ``http_options.prot``."""
    unknown = []
    for key, item in value.items():
        if key not in schema.model_fields:
            unknown.append(f"{path}{key}")
            continue
        for model in _models_in(schema.model_fields[key].annotation)[:1]:
            for part in item if isinstance(item, list) else [item]:
                unknown += unknown_keys(part, model, f"{path}{key}.") if isinstance(part, dict) else []
    return unknown


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, list, typing.Annotated}:
        return [model for part in typing.get_args(annotation) for model in _models_in(part)]
    return []


def check_shared_memory(args: AppArgs, detectors: list[DetectorArgs], deployments: dict[str, Json]) -> None:
    """Raise SharedMemoryError if the frame pools of this machine's replicas do not fit into shared memory."""
    needed = shared_memory_bytes(args, detectors, deployments)
    try:
        free = shutil.disk_usage(FOLDER).free
    except OSError as exc:
        raise SharedMemoryError(f"{FOLDER} cannot be used ({exc.strerror}): mount a tmpfs there") from exc
    if needed > free:
        raise SharedMemoryError(
            f"the frame pools need {needed / 2**20:.0f} MiB of shared memory, but {free / 2**20:.0f} MiB are free: "
            "use fewer slots (preprocessor.slots, jobs.slots) or provide more shared memory (docker run --shm-size=1g)"
        )


def shared_memory_bytes(args: AppArgs, detectors: list[DetectorArgs], deployments: dict[str, Json]) -> int:
    """Return the size of the frame pools of this machine's Preprocessors and JobRunners."""
    preprocessor, runner = deployments.get("Preprocessor", {}), deployments.get("JobRunner", {})
    runners = (runner.get("autoscaling_config") or {}).get("max_replicas") or runner.get("num_replicas", 1)
    slots = _count(preprocessor.get("num_replicas", 1), preprocessor) * args.preprocessor.slots
    slots += _count(runners, runner) * args.jobs.slots
    return sum(pool_bytes(slots, InputShape.square(detector.model.image_size_px)) for detector in detectors)


def _count(replicas: Any, deployment: Json) -> int:
    """Return how many of a deployment's replicas may run on this machine."""
    count = replicas if isinstance(replicas, int) else 1
    return min(count, deployment.get("max_replicas_per_node") or count)

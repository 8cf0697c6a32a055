"""The command ``sightline doctor``, which says what this machine has and lacks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import machine, packages
from serve_app.cli.configs import find_config, names
from serve_app.cli.errors import CommandFailed
from serve_app.cli.findings import Finding, attempt, missing, ok
from serve_app.cli.ports import of_ports
from serve_app.cli.server import AsJson
from serve_app.errors import StartError

if TYPE_CHECKING:
    from serve_app.types import Json


def doctor(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help=f"{', '.join(names())}, or a Serve config in YAML.")
    ] = "local",
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and lacks for serving a config. Print one line for each check, with a fix if needed.

    The exit status is 1 if something is missing that `sightline serve` needs.
    """
    path = find_config(config)
    findings = [*of_packages(), *of_machine(), *of_config(path)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.mark:7}  {finding.check:13}  {': '.join(filter(None, (finding.found, finding.fix)))}")
    if lacking := [finding.check for finding in findings if finding.mark == "missing"]:
        raise CommandFailed(f"{path.name} cannot be served on this machine yet: see {', '.join(lacking)}")


def of_packages() -> Iterator[Finding]:
    """Yield what the checks of the installed packages find."""
    yield packages.python()
    yield packages.ray()
    yield packages.extras()
    yield packages.opencv()


def of_machine() -> Iterator[Finding]:
    """Yield the findings of the checks of the machine. These checks do not depend on a config."""
    yield machine.vectors(Path("/proc/cpuinfo").read_text())
    yield machine.memory(Path("/proc/meminfo").read_text())
    yield machine.open_files()
    yield machine.running_ray(packages.version_of("ray") or "none", os.environ.get("RAY_ADDRESS", ""))
    yield machine.ray_files(sys.executable)
    yield machine.proxies(os.environ)
    yield machine.encoding()


def of_config(path: Path) -> Iterator[Finding]:
    """Yield the findings of the checks that depend on the config.

    These checks call the same functions as ``sightline serve``.
    """
    try:
        from serve_app.deployments import preflight
        from serve_app.deployments.folders import check_collection, check_folders
        from serve_app.models.weights import check_weights, is_not_fetched_yet
    except ImportError as exc:
        yield missing("config", f"{path} was not checked, because {exc}", "repair the installation of Ray")
        return
    try:
        config = preflight.read(path)
        applications = list(preflight.applications_of(config))
    except StartError as exc:
        yield Finding("config", "missing", exc.detail)
        return
    yield ok("config", str(path))
    if needed := needed_resources(config):
        yield machine.cores(machine.core_count(), needed[0])
        yield machine.gpu(needed[1])
    yield from of_ports(config)
    yield packages.engines({detector.model.engine for _, _, detectors, _ in applications for detector in detectors})
    yield machine.shared_memory(
        sum(
            preflight.shared_memory_bytes(args, detectors, deployments)
            for _, args, detectors, deployments in applications
        )
    )
    for name, args, detectors, _ in applications:
        for detector in detectors:
            weights = str(detector.model.weights)
            if is_not_fetched_yet(detector.model):
                yield ok("weights", f"{weights}, which `sightline serve` fetches once")
            else:
                yield attempt("weights", weights, partial(check_weights, detector.model))
            yield machine.cache_folder(detector.model.cache_dir)
        yield attempt("folders", str(args.streams.state_dir), partial(check_folders, args.streams, name))
        if args.collect.folder is not None:
            yield attempt("collection", str(args.collect.folder), partial(check_collection, args.collect))
        host = config.get("http_options", {}).get("host", "0.0.0.0")
        yield attempt(
            "API keys", str(args.access.keys_file or "none"), partial(preflight.check_keys, args.access, host)
        )


def lacking_resources(config: Json) -> list[Finding]:
    """Return the findings about the cores and GPUs that the config needs and this machine lacks."""
    cores, gpus = needed_resources(config) or (0.0, 0.0)
    findings = [machine.cores(machine.core_count(), cores)]
    if gpus:  # asking NVIDIA's driver takes time
        findings.append(machine.gpu(gpus))
    return [finding for finding in findings if finding.mark == "missing"]


def needed_resources(config: Json) -> tuple[float, float] | None:
    """Return the numbers of cores and GPUs that all replicas of the config reserve.

    Return None if the config is for several machines.
    """
    if config.get("proxy_location") == "EveryNode":
        return None
    needed = {"num_cpus": 0.0, "num_gpus": 0.0}
    for application in config["applications"]:
        for deployment in application.get("deployments", []):
            least = (deployment.get("autoscaling_config") or {}).get("min_replicas", deployment.get("num_replicas", 1))
            for resource in needed:
                amount = (deployment.get("ray_actor_options") or {}).get(resource, 0)
                needed[resource] += amount * (least if isinstance(least, int) else 1)
    return round(needed["num_cpus"], 2), needed["num_gpus"]

"""Tests of configs/kuberay against the schemas of Kubernetes, and against Ray and the application.

No package contains KubeRay's schema, which describes the parts of a RayService outside the pod templates. Of these
parts, the tests check only the names of the keys. The Serve config in the RayService is checked in test_configs.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray
import yaml
from ray.scripts.scripts import start

from serve_app import app
from serve_app.config import parse_args
from serve_app.deployments import stream_worker as worker
from serve_app.ipc.frame_pool import pool_bytes
from serve_app.types import InputShape
from tests.support.paths import ROOT

OBJECTS = [
    item for path in sorted((ROOT / "configs/kuberay").glob("*.yaml")) for item in yaml.safe_load_all(path.read_text())
]
(SERVICE,) = (item for item in OBJECTS if item["kind"] == "RayService")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
HEAD, (WORKERS,) = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
PODS = {"head": HEAD["template"], "worker": WORKERS["template"]}
(CONFIG,) = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"]
VERSIONS = ["1.30", kubernetes_validate.latest_version()]  # the first version with preStop's sleep, and the latest
MIB = 2**20


def validate(item: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)  # strict refuses unknown keys


def as_object(template: dict[str, Any]) -> dict[str, Any]:
    """Wrap a pod template in a PodTemplate object, for which Kubernetes has a schema."""
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}


@pytest.fixture(params=PODS)
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    spec: dict[str, Any] = PODS[request.param]["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("item", [item for item in OBJECTS if item is not SERVICE], ids=lambda item: item["kind"])
def test_kubernetes_objects_are_valid(item: dict[str, Any], version: str) -> None:
    validate(item, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_pod_templates_are_valid(template: dict[str, Any], version: str) -> None:
    validate(as_object(template), version)


def test_a_misspelt_key_deep_in_a_pod_is_found() -> None:
    """This shows that the schemas are installed and strict."""
    template = deepcopy(PODS["worker"])
    template["spec"]["containers"][0]["readinessProbe"]["periodSecond"] = 5
    with pytest.raises(kubernetes_validate.ValidationError, match="periodSecond"):
        validate(as_object(template), VERSIONS[-1])


def test_the_keys_around_the_pods_are_those_of_kuberay() -> None:
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("ray.io/v1", "RayService")
    assert SERVICE["spec"].keys() == {"serveConfigV2", "rayClusterConfig"}
    assert CLUSTER.keys() == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert HEAD.keys() == {"rayStartParams", "template"}
    assert WORKERS.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


@pytest.mark.parametrize("group", [HEAD, WORKERS], ids=["head", "workers"])
def test_the_options_of_ray_start_exist(group: dict[str, Any]) -> None:
    options = {option for parameter in start.params for option in parameter.opts}
    for name, value in group["rayStartParams"].items():
        assert f"--{name}" in options
        assert isinstance(value, str)  # KubeRay requires strings


def test_the_ray_version_is_the_installed_one() -> None:
    assert CLUSTER["rayVersion"] == ray.__version__


def test_the_termination_grace_period_exceeds_the_draining_time(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    drain_s = int(env(container)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    before_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    # While a node drains, a replacement starts, and the node's replicas answer the requests that they have accepted.
    # Ray's processes then have 30 s to end.
    assert drain_s > 60 + app._DETECTOR_DRAIN_TIMEOUT_S
    assert pod["terminationGracePeriodSeconds"] >= before_s + drain_s + 30


def test_shared_memory_is_enough_for_a_replica_and_its_replacement() -> None:
    (volume,) = (one for one in PODS["worker"]["spec"]["volumes"] if one["name"] == "shared-memory")
    args = parse_args(CONFIG["args"])
    shape = InputShape.square(args.model.image_size_px)
    frames = 2 * (pool_bytes(args.preprocessor.slots, shape) + pool_bytes(args.jobs.slots, shape))
    # A comment in the config says that shared memory is enough for 350 streams.
    streams = 350 * pool_bytes(worker._SLOTS, InputShape.square(args.model.image_size_px))
    store = int(WORKERS["rayStartParams"]["object-store-memory"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert frames + streams + store < 1024 * MIB


def test_the_workers_have_resources_for_every_replica() -> None:
    resources = PODS["worker"]["spec"]["containers"][0]["resources"]
    workers = WORKERS["replicas"]
    needed = {"num_cpus": 0.0, "num_gpus": 0.0}
    for deployment in CONFIG["deployments"]:
        replicas = deployment.get("num_replicas") or deployment["autoscaling_config"]["max_replicas"]
        for name in needed:
            needed[name] += replicas * deployment["ray_actor_options"].get(name, 0)
        assert deployment.get("max_replicas_per_node", workers) * workers >= replicas
    assert needed["num_cpus"] <= workers * float(resources["limits"]["cpu"])
    assert needed["num_gpus"] == workers * int(resources["limits"]["nvidia.com/gpu"])


def test_the_keys_and_the_volume_are_mounted_where_the_application_expects_them() -> None:
    (container,) = PODS["worker"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in PODS["worker"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert str(Path(CONFIG["args"]["access"]["keys_file"]).parent) in mounts
    assert "/var/lib/sightline" in mounts  # the Dockerfile sets this folder
    (claim,) = (item for item in OBJECTS if item["kind"] == "PersistentVolumeClaim")
    (data,) = (volume for volume in PODS["worker"]["spec"]["volumes"] if volume["name"] == "data")
    assert data["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_pods_have_no_privileges(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_policies_select_every_pod() -> None:
    for item in OBJECTS:
        selector = item["spec"].get("podSelector") or item["spec"].get("selector")
        if item is not SERVICE and selector:
            # KubeRay itself adds the labels that begin with ray.io/.
            labels = {name: value for name, value in selector["matchLabels"].items() if not name.startswith("ray.io/")}
            assert all(labels == template["metadata"]["labels"] for template in PODS.values())


def env(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}

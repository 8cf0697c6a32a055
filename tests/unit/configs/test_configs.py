"""Tests of every config in configs/. Serve silently ignores misspelt keys, so these tests look for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from serve_app.api.access.local import require_keys
from serve_app.app import build_app
from serve_app.cli.stream_file import read_specs
from serve_app.config import parse_args
from serve_app.deployments.autoscaling import TargetUtilisation
from serve_app.deployments.preflight import unknown_keys
from tests.support.paths import ROOT

STREAMS = ROOT / "configs/streams.yaml"  # this is not a Serve config
RAY_SERVICE = ROOT / "configs/kuberay/rayservice.yaml"  # this contains a Serve config
CONFIGS = [*sorted(set((ROOT / "configs").glob("*.yaml")) - {STREAMS}), RAY_SERVICE]


@pytest.fixture(params=CONFIGS, ids=lambda path: path.name)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(request.param.read_text())
    if request.param == RAY_SERVICE:
        document = yaml.safe_load(document["spec"]["serveConfigV2"])
    return document


def test_serve_knows_every_key(config: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, ServeDeploySchema) == []


def test_the_application_accepts_the_args(config: dict[str, Any]) -> None:
    for application in config["applications"]:
        parse_args(application["args"])


def test_the_deployments_match_the_graph(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_WEIGHTS", "any.pt")
    ingress = build_app({})
    preprocessor, supervisor, job_supervisor, drift_monitor, *_ = ingress._bound_deployment.init_args
    job_runner = job_supervisor._bound_deployment.init_args[0]
    detector = preprocessor._bound_deployment.init_args[0]["default"]
    graph = (ingress, preprocessor, supervisor, job_supervisor, job_runner, drift_monitor, detector)
    names = [app._bound_deployment.name for app in graph]
    for application in config["applications"]:
        assert application["name"] == "sightline"
        assert [deployment["name"] for deployment in application["deployments"]] == names


def test_the_policies_accept_their_parameters(config: dict[str, Any]) -> None:
    for application in ServeDeploySchema.model_validate(config).applications:
        for deployment in application.deployments:
            if "autoscaling_config" in deployment.model_fields_set:
                policy = AutoscalingConfig.model_validate(deployment.autoscaling_config).policy
                if not policy.is_default_policy_function():
                    assert TargetUtilisation(**policy.policy_kwargs)


def test_all_streams_are_valid_even_those_in_comments(tmp_path: Path) -> None:
    text = STREAMS.read_text()
    start = text.index("  #  - id")
    (tmp_path / "all.yaml").write_text(text[:start] + text[start:].replace("  #  ", "  "))
    assert list(read_specs(STREAMS)) == ["belt"]
    assert list(read_specs(tmp_path / "all.yaml")) == ["belt", "gate"]


def test_a_config_that_leaves_loopback_has_a_keys_file(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVE_APP_KEYS_FILE", raising=False)
    for application in config["applications"]:
        require_keys(parse_args(application["args"]).access, config["http_options"]["host"])


def test_only_clusters_and_containers_leave_loopback() -> None:
    hosts = {path.name: re.findall(r"^ *host: (\S+)", path.read_text(), re.MULTILINE) for path in CONFIGS}
    assert {name for name, host in hosts.items() if host != ["127.0.0.1"]} == {
        "cluster.yaml",
        "container.yaml",
        "rayservice.yaml",
    }


def test_no_config_overrides_max_ongoing_requests(config: dict[str, Any]) -> None:
    """The application derives this value from other settings: the number of slots and the size of the queue.

    A value in a config could contradict these settings.
    """
    for application in config["applications"]:
        for deployment in application["deployments"]:
            assert "max_ongoing_requests" not in deployment

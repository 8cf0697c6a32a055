"""Tests of how the driver changes a config for the command line."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.doctor import lacking_resources
from serve_app.cli.driver import replace_weights, warn_of_lacking_resources
from serve_app.deployments.preflight import applications_of

OTHER = {"weights": "other.onnx", "weights_sha256": "0" * 64, "threads": 3}


@pytest.mark.parametrize("args", [None, {}, {"model": None}, {"model": OTHER}, {"detect": {"confidence": 0.4}}])
@pytest.mark.parametrize("user_config", [None, {}, {"model": OTHER}])
def test_the_weights_of_the_command_line_override_those_of_the_config(args: Any, user_config: Any) -> None:
    args, user_config = deepcopy((args, user_config))  # other tests use the same parameters
    has_threads = OTHER in [(args or {}).get("model"), (user_config or {}).get("model")]
    detector = {"name": "Detector", "user_config": user_config}
    config = {"applications": [{"import_path": "serve_app.app:build_app", "args": args, "deployments": [detector]}]}
    replace_weights(config, "/srv/best.pt")
    ((_, _, (found,), _),) = applications_of(config)
    assert (str(found.model.weights), found.model.weights_sha256) == ("/srv/best.pt", None)
    assert found.model.threads == (3 if has_threads else 0)  # other settings of the model are kept


def test_other_applications_are_not_changed() -> None:
    config: dict[str, Any] = {"applications": [{"import_path": "other:app"}]}
    replace_weights(config, "best.pt")
    assert config == {"applications": [{"import_path": "other:app"}]}


def test_a_config_that_needs_more_cores_than_the_machine_has_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    deployment = {"name": "Detector", "num_replicas": 2, "ray_actor_options": {"num_cpus": 10_000}}
    warn_of_lacking_resources({"applications": [{"deployments": [deployment]}]})
    assert "cores, 20000 needed; some replicas may never start: use a config that" in capsys.readouterr().err
    warn_of_lacking_resources({"applications": [{"deployments": [deployment | {"num_replicas": 0}]}]})
    assert capsys.readouterr().err == ""


def test_nvidias_driver_is_asked_only_for_a_config_with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails is no problem for a config without GPUs, and asking the driver takes time."""
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho it fails >&2\nexit 9\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    deployment: dict[str, Any] = {"name": "Detector", "ray_actor_options": {"num_gpus": 0}}
    assert lacking_resources({"applications": [{"deployments": [deployment]}]}) == []
    assert not (tmp_path / "asked").exists()
    deployment["ray_actor_options"]["num_gpus"] = 1
    (lacking,) = lacking_resources({"applications": [{"deployments": [deployment]}]})
    assert (lacking.check, lacking.found) == ("gpu", "it fails")

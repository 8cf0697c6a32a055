"""Tests of ``sightline doctor``: what it prints, its exit status, and the checks that depend on a config."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.launch import free_port
from serve_app.cli.doctor import of_config
from serve_app.cli.findings import Finding, ok
from tests.support.command import sightline
from tests.support.paths import ROOT
from tests.support.stream_server import serve_streams


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the local config on a free port, with folders of the test."""
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SERVE_APP_STATE_DIR", str(tmp_path / "state"))
    for name in ("METRICS", "STATS"):
        monkeypatch.setenv(f"RAY_SERVE_HAPROXY_{name}_PORT", str(free_port()))
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    settings["http_options"]["port"] = free_port()
    return settings


def save(tmp_path: Path, config: dict[str, Any]) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def findings(tmp_path: Path, config: dict[str, Any]) -> dict[str, Finding]:
    return {finding.check: finding for finding in of_config(save(tmp_path, config))}


def missing(tmp_path: Path, config: dict[str, Any]) -> dict[str, str]:
    return {name: one.found for name, one in findings(tmp_path, config).items() if one.mark == "missing"}


def test_a_machine_on_which_the_config_can_be_served_has_status_0(tmp_path: Path, config: dict[str, Any]) -> None:
    path = save(tmp_path, config)
    done = sightline("doctor", path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    assert any(line.startswith(f"ok       config         {path}") for line in lines)
    listed = json.loads(sightline("doctor", path, "--json").stdout)
    assert [one["check"] for one in listed] == [line[9:22].strip() for line in lines]
    assert set(listed[0]) == {"check", "mark", "found", "fix"}


def test_a_machine_that_lacks_something_has_status_1_and_one_sentence(tmp_path: Path, config: dict[str, Any]) -> None:
    config["applications"][0]["args"]["model"] = {"weights": "/nowhere/best.onnx"}
    done = sightline("doctor", save(tmp_path, config))
    assert done.returncode == 1
    assert done.stderr == "config.yaml cannot be served on this machine yet: see weights\n"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("missing"))
    assert line == "missing  weights        model.weights: there is no /nowhere/best.onnx; check the path"


def test_a_config_that_cannot_be_read_is_the_only_finding(tmp_path: Path) -> None:
    (finding,) = of_config(tmp_path / "none.yaml")
    assert finding == Finding("config", "missing", f"{tmp_path}/none.yaml cannot be read: No such file or directory")


def test_a_misspelt_setting_is_found(tmp_path: Path, config: dict[str, Any]) -> None:
    config["applications"][0]["args"]["modle"] = {}
    assert "modle" in missing(tmp_path, config)["config"]


def test_a_port_in_use_is_found(tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port, metrics = server.getsockname()[1], other.getsockname()[1]
        config["http_options"]["port"] = port
        monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", str(metrics))
        assert missing(tmp_path, config).keys() == {f"port {port}", f"port {metrics}"}
        monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
        assert missing(tmp_path, config).keys() == {f"port {port}"}


def test_cores_and_gpus_that_the_replicas_reserve_are_summed(tmp_path: Path, config: dict[str, Any]) -> None:
    ingress, *_, detector = config["applications"][0]["deployments"]
    ingress |= {"num_replicas": 3, "ray_actor_options": {"num_cpus": 100}}
    detector["autoscaling_config"] = {"min_replicas": 2, "max_replicas": 9}
    detector["ray_actor_options"] = {"num_cpus": 0, "num_gpus": 100}
    del detector["num_replicas"]
    found = missing(tmp_path, config)
    assert "300.29 needed" in found["cores"]
    assert "200 needed" in found["gpu"] or "nvidia-smi" in found["gpu"]
    config["proxy_location"] = "EveryNode"  # the replicas are spread over several machines
    assert findings(tmp_path, config).keys() & {"cores", "gpu"} == set()


def test_the_port_of_the_head_is_checked_for_a_cluster(tmp_path: Path, config: dict[str, Any]) -> None:
    assert "port 6379" not in findings(tmp_path, config)
    assert "port 6379" in findings(tmp_path, config | {"proxy_location": "EveryNode"})


def test_more_frame_pools_than_shared_memory_are_found(tmp_path: Path, config: dict[str, Any]) -> None:
    config["applications"][0]["args"]["preprocessor"] = {"slots": 1024}
    config["applications"][0]["deployments"][1]["num_replicas"] = 10_000
    config["applications"][0]["deployments"][1]["ray_actor_options"] = {"num_cpus": 0}
    assert missing(tmp_path, config).keys() == {"shared memory"}


def test_an_address_that_others_reach_needs_keys(tmp_path: Path, config: dict[str, Any]) -> None:
    config["http_options"]["host"] = "0.0.0.0"
    assert "access.keys_file: it is not set" in missing(tmp_path, config)["API keys"]
    config["applications"][0]["args"]["access"] = {"keys_file": "/nowhere/keys.yaml"}
    assert "/nowhere/keys.yaml cannot be read" in missing(tmp_path, config)["API keys"]


def test_a_folder_of_states_that_cannot_be_created_is_found(tmp_path: Path, config: dict[str, Any]) -> None:
    config["applications"][0]["args"]["streams"] = {"state_dir": "/proc/states"}
    assert "streams.state_dir" in missing(tmp_path, config)["folders"]


def test_the_ports_of_our_own_running_server_are_no_fault(tmp_path: Path, config: dict[str, Any]) -> None:
    with serve_streams() as served:
        config["http_options"]["port"] = served.port
        finding = findings(tmp_path, config)[f"port {served.port}"]
        assert finding == ok(finding.check, "in use by a running Sightline server; another one needs --port")


def test_haproxys_ports_are_a_fault_only_if_they_belong_to_no_server_of_ours(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_streams() as served, serve_metrics(b"# HELP haproxy_process_uptime_seconds") as haproxy:
        monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", str(haproxy))
        monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", str(haproxy))
        assert missing(tmp_path, config).keys() == {f"port {haproxy}"}
        config["http_options"]["port"] = served.port
        assert missing(tmp_path, config) == {}
        with serve_metrics(b"another program") as other:
            monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", str(other))
            assert missing(tmp_path, config).keys() == {f"port {other}"}


@contextmanager
def serve_metrics(body: bytes) -> Iterator[int]:
    """Answer every GET with this body, and yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()

"""Tests of the Dockerfile's text. They do not build or run the image, because that would need a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from serve_app.cli.configs import find_config, ray_flags
from tests.support.paths import ROOT

DOCKERFILE = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
CONFIGS = "/opt/sightline/lib/python3.11/site-packages/serve_app/configs/"  # the package installs configs/ there
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.split("==") for line in (ROOT / "configs/constraints.txt").read_text().splitlines() if not line.startswith("#")
)
EXTRAS = re.findall(r"--extra (\w+)", DOCKERFILE)


def instructions(name: str) -> list[str]:
    """Return the arguments of every instruction with this name, in order."""
    return re.findall(rf"^\s*{name} (.*)$", DOCKERFILE, re.MULTILINE)


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for line in instructions("ENV") for word in shlex.split(line))


def test_hadolint_finds_nothing() -> None:
    command = [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_environment_matches_serve_env() -> None:
    ours = {"PATH", "SERVE_APP_CACHE_DIR", "SERVE_APP_STATE_DIR", "SERVE_APP_WEIGHTS"}
    flags = ray_flags() | {"RAY_SERVE_HAPROXY_BINARY_PATH": f"{CONFIGS}haproxy.py"}
    assert {name: value for name, value in environment().items() if name not in ours} == flags


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [("", 0, ""), ("best.pt", 1, "publishes no model best.pt"), ("yolo26n-sem.pt", 1, "is not supported")],
)
def test_a_published_model_is_built_in_only_if_it_is_named(name: str, status: int, says: str) -> None:
    (command,) = [line for line in instructions("RUN") if "$WEIGHTS" in line]
    assert "WEIGHTS=" in instructions("ARG")
    command = command.replace("/opt/sightline/bin/sightline", f"{sys.executable} -m serve_app.cli")
    env = os.environ | {"WEIGHTS": name}
    result = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (status, "")
    assert says in result.stderr


def test_the_container_serves_the_model_that_was_built_in() -> None:
    (folder,) = re.findall(r"fetch \"\$WEIGHTS\" --to (\S+)", DOCKERFILE)
    assert environment()["SERVE_APP_WEIGHTS"] == f"${{WEIGHTS:+{folder}/$WEIGHTS}}"  # empty if no model was named


def test_the_container_does_not_run_as_root() -> None:
    assert instructions("USER")[-1] == "1000"
    assert DOCKERFILE.rindex("USER 1000") < DOCKERFILE.rindex("ENTRYPOINT")


def test_sigterm_reaches_the_application_without_a_shell() -> None:
    assert json.loads(instructions("ENTRYPOINT")[-1]) == ["sightline", "serve"]
    (config,) = json.loads(instructions("CMD")[-1])
    assert find_config(config).name == "container.yaml"


def test_the_health_check_requests_readyz_on_the_port_of_the_config() -> None:
    config = yaml.safe_load((ROOT / "configs/container.yaml").read_text())
    port = config["http_options"]["port"]
    assert f"http://127.0.0.1:{port}/readyz" in instructions("HEALTHCHECK")[0]
    assert instructions("EXPOSE") == [str(port)]


def test_the_health_check_uses_no_proxy() -> None:
    """Containers often have proxy variables, but a proxy cannot reach the container itself."""
    (_, command) = instructions("HEALTHCHECK")[0].split("CMD ")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = [word.replace(":8000/", f":{port}/") for word in json.loads(command)]
        env = os.environ | {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
        with subprocess.Popen([sys.executable, *words[1:]], env=env) as check:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1 << 16).startswith(b"GET /readyz ")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert check.wait(30) == 0


def test_the_first_lines_show_shared_memory_and_the_folder_of_keys() -> None:
    usage = (ROOT / "Dockerfile").read_text().partition("FROM")[0]
    (application,) = yaml.safe_load((ROOT / "configs/container.yaml").read_text())["applications"]
    assert "--shm-size=" in usage
    keys_file = Path(application["args"]["access"]["keys_file"])
    # If only the file were mounted, the container would not notice when the file is replaced.
    assert f":{keys_file.parent}:ro" in usage


def test_the_python_version_is_supported_by_the_project() -> None:
    image = instructions("FROM")[0].split()[0]
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image)
    assert version is not None
    assert f"/python{version[1]}/" in CONFIGS
    assert f"{version[1]}.0" in Requirement(f"python{PROJECT['requires-python']}").specifier


@pytest.mark.parametrize(
    "requirement",
    [*PROJECT["dependencies"], *(one for extra in EXTRAS for one in PROJECT["optional-dependencies"][extra])],
)
def test_every_dependency_is_pinned_to_a_version_that_the_project_allows(requirement: str) -> None:
    wanted = Requirement(requirement)
    assert PINNED[wanted.name] in wanted.specifier

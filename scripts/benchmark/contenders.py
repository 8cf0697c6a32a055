"""The servers that the benchmark compares. Each runs on a free port and receives requests at /detect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.benchmark.compiled import PEERS, Computed, Question, ask
from scripts.benchmark.report import OURS, WITHOUT_DRIFT
from scripts.launch import ROOT, free_port, start, stop_group, wait_until_answered

SIMULATED = ("null", "sleep")  # the engines that run no model
_PEER_PACKAGES = ("litserve>=0.2.19,<0.3", "mosec>=0.9.8,<0.10", "uvicorn[standard]")


@dataclass(frozen=True)
class Running:
    """A running server that is ready for requests."""

    url: str  # the URL of /detect
    pid: int
    # True: send images as multipart forms. False: send images as request bodies. We follow the server's documentation.
    multipart: bool


@dataclass(frozen=True)
class Contender:
    """A server to measure."""

    name: str  # shown in tables
    run: Callable[[], Any]  # returns a context manager that yields a ``Running``
    # Returns what the server computes for the images in a folder, or None if it runs no model.
    computed: Callable[[Path], Computed | None]
    detectors: int = 1  # number of Detectors; the number of clients is multiplied by this number


def sightline(
    model: dict[str, Any],
    folder: Path,
    *,
    detectors: int = 1,
    decode: str = "exact",
    drift: bool = True,
    models: dict[str, dict[str, Any]] | None = None,
) -> Contender:
    """Return Sightline with configs/local.yaml as a contender.

    ``model`` and ``models`` are sections of the config, ``decode`` is the setting ``preprocessor.decode``, and
    ``drift`` is the setting ``drift.enabled``.
    """
    name = OURS if detectors == 1 else f"{OURS}, {detectors} Detectors"
    if not drift:
        name += WITHOUT_DRIFT

    @contextmanager
    def run() -> Iterator[Running]:
        config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
        (application,) = config["applications"]
        application["args"] = {
            "model": model,
            "models": models or {},
            "preprocessor": {"decode": decode},
            "drift": {"enabled": drift},
        }
        cpus = {"num_cpus": 0.5 / (detectors + len(models or {}))}  # of each Detector, for which Ray must find a place
        for deployment in application["deployments"]:
            if deployment["name"] == "Detector":
                deployment |= {"num_replicas": detectors, "ray_actor_options": cpus}
        for name in models or {}:
            application["deployments"].append({"name": f"Detector-{name}", "ray_actor_options": cpus})
        path = folder / "sightline.yaml"
        path.write_text(yaml.safe_dump(config))
        server = start(path, folder / "sightline.log")
        try:
            server.wait_until_ready()
            yield Running(f"{server.url}/detect", server.process.pid, multipart=False)
        finally:
            server.stop()

    def computed(pictures: Path) -> Computed | None:
        return None if model["engine"] in SIMULATED else ask(Question(model=model))

    return Contender(name, run, computed, detectors)


def peers(weights: Path, model: dict[str, Any], folder: Path) -> list[Contender]:
    """Return FastAPI, LitServe and mosec servers that run ``weights`` with Ultralytics.

    ``model`` is the config's ``model:`` section. With its engine ``null``, the servers run no model. With its precision
    ``fp32``, they compute in fp32. Otherwise, OpenVINO chooses the precision, as it does for everyone who runs such a
    server.
    """
    python, engine = _environment(folder), model["engine"]
    env = os.environ | {"WEIGHTS": str(weights), "ENGINE": engine, "PRECISION": model["precision"]}
    env |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}

    def computed(pictures: Path) -> Computed | None:
        return None if engine in SIMULATED else ask(Question(weights=str(weights), pictures=str(pictures)), env)

    def peer(name: str, command: Callable[[int], list[str]], ready: str, *, multipart: bool) -> Contender:
        @contextmanager
        def run() -> Iterator[Running]:
            port = free_port()
            with (folder / f"{name}.log").open("w") as log:
                process = subprocess.Popen(
                    [str(python), *command(port)], cwd=PEERS, env=env, stdout=log, stderr=log, start_new_session=True
                )
            try:
                wait_until_answered(f"http://127.0.0.1:{port}{ready}", process, folder / f"{name}.log")
                yield Running(f"http://127.0.0.1:{port}/detect", process.pid, multipart=multipart)
            finally:
                stop_group(process)

        return Contender(name, run, computed)

    return [
        peer(
            "FastAPI",
            lambda port: ["-m", "uvicorn", "fastapi_app:app", "--port", str(port), "--no-access-log"],
            "/readyz",
            multipart=True,
        ),
        peer("LitServe", lambda port: ["litserve_app.py", str(port)], "/readyz", multipart=True),
        peer(
            "mosec",
            lambda port: ["mosec_app.py", "--address", "127.0.0.1", "--port", str(port)],
            "/",
            multipart=False,
        ),
    ]


def _environment(folder: Path) -> Path:
    """Return the Python of the other servers' virtual environment, and create the environment if it does not exist.

    The file sightline.pth adds the packages of Sightline's environment to the import path of the other servers'
    environment.
    """
    venv = folder / "venv"
    python = venv / "bin/python"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        uv = Path(sys.executable).with_name("uv")
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python, *_PEER_PACKAGES]
        subprocess.run(install, check=True)
        (packages,) = (venv / "lib").glob("python*/site-packages")
        (ours,) = (Path(sys.prefix) / "lib").glob("python*/site-packages")
        (packages / "sightline.pth").write_text(str(ours))
        (venv / "ready").touch()
    return python

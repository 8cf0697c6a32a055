"""Who is measured: each a server that is started on a free port, asked at /detect, and stopped."""

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

from scripts.launch import ROOT, free_port, start, stop_group, wait_until_answered

PEERS = Path(__file__).with_name("peers")
_PEERS_PACKAGES = ("litserve>=0.2.19,<0.3", "mosec>=0.9.8,<0.10", "uvicorn[standard]")


@dataclass(frozen=True)
class Running:
    """A contender that answers."""

    url: str  # of its detection route
    pid: int
    multipart: bool  # how it takes a picture: as its users are shown


@dataclass(frozen=True)
class Contender:
    """A name for the tables, and what to run."""

    name: str
    run: Callable[[], Any]  # a context manager of Running
    detectors: int = 1  # engines that it runs; it gets as many times the clients


def sightline(model: dict[str, Any], folder: Path, *, detectors: int = 1) -> Contender:
    """Ours, by configs/local.yaml and scripts/serve. ``model``: the config's section."""
    name = "Sightline" if detectors == 1 else f"Sightline, {detectors} Detectors"

    @contextmanager
    def run() -> Iterator[Running]:
        config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
        (application,) = config["applications"]
        application["args"] = {"model": model}
        for deployment in application["deployments"]:
            if deployment["name"] == "Detector":
                deployment |= {"num_replicas": detectors, "ray_actor_options": {"num_cpus": 0.5 / detectors}}
        path = folder / "sightline.yaml"
        path.write_text(yaml.safe_dump(config))
        server = start(path, folder / "sightline.log")
        try:
            server.wait_until_ready()
            yield Running(f"{server.url}/detect", server.process.pid, multipart=False)
        finally:
            server.stop()

    return Contender(name, run, detectors)


def peers(weights: Path, engine: str, folder: Path) -> list[Contender]:
    """FastAPI, LitServe and mosec over Ultralytics, in an environment of their own. ``engine``: null, or any other."""
    python = _environment(folder)
    env = os.environ | {"WEIGHTS": str(weights), "ENGINE": engine, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}

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

        return Contender(name, run)

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
    """The Python of the peers' environment, made once: what they share with us is lent by a .pth file."""
    venv = folder / "venv"
    python = venv / "bin/python"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        uv = Path(sys.executable).with_name("uv")
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python, *_PEERS_PACKAGES]
        subprocess.run(install, check=True)
        (packages,) = (venv / "lib").glob("python*/site-packages")
        (lent,) = (Path(sys.prefix) / "lib").glob("python*/site-packages")
        (packages / "lent.pth").write_text(str(lent))
        (venv / "ready").touch()
    return python

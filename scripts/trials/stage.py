"""What all trials need: a running application, and the images and videos that it processes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import yaml
from rich.console import Console
from rich.progress import Progress

from scripts.codes import samples
from scripts.launch import ROOT, start
from scripts.shapes.scenes import scene
from scripts.trials.cluster import Cluster
from serve_app.types import Json

FOLDER = ROOT / "build/trials"
CONFIG = FOLDER / "trials.yaml"  # the config that is served
FRAMES = 100
SMALL_PX = 640, 480
SHAPES_PX = 320, 240
CAMERA_FPS = 2.5

console = Console(width=110)
Tell = Callable[[float], None]


@contextmanager
def serving(config: Json | None = None) -> Iterator[Cluster]:
    """Serve a config, by default ``local_config()``, in its own Ray cluster. Raise StartFailed if the start fails."""
    config = config or local_config()
    (application,) = config["applications"]
    output = FOLDER / "output"
    output.mkdir(exist_ok=True)
    for old in output.rglob("*.jsonl*"):
        old.unlink()
    application["args"] |= {"streams": {"media_dirs": str(FOLDER), "output_dir": str(output)}}
    CONFIG.write_text(yaml.safe_dump(config))
    server = start(CONFIG, FOLDER / "serve.log")
    try:
        server.wait_until_ready()
        yield Cluster(server.url, server.process.pid, server.dashboard_url)
    finally:
        server.stop()


def local_config(args: Json | None = None, deployments: Mapping[str, Json] | None = None) -> Json:
    """Return the content of configs/local.yaml with additional settings.

    ``args`` are settings of the application, and ``deployments`` maps a deployment's name to its settings.
    """
    config: Json = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    (application,) = config["applications"]
    application["args"] |= args or {}
    for deployment in application["deployments"]:
        deployment |= (deployments or {}).get(deployment["name"], {})
    return config


@contextmanager
def progress(title: str, total: float) -> Iterator[Tell]:
    """Show a progress bar, and yield the function that sets its position."""
    with Progress(console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """While the ``with`` block runs, write this process's log lines and Python warnings to a file, not the terminal."""
    root = logging.getLogger()
    before = root.handlers[:]
    handler = logging.FileHandler(path, "w", encoding="utf-8")
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        handler.close()


def save_pictures() -> Path:
    """Save the images that a camera shows, and return their folder."""
    folder = FOLDER / "camera"
    folder.mkdir(exist_ok=True)
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f"{number}.jpg"), samples.belt_frame(number).pixels)
    return folder


def save_one_picture(of: Path | None) -> Path:
    """Copy the image at the path ``of`` into a new folder, and return the folder.

    If ``of`` is None, the folder has an image in which the embedded model detects something.
    """
    folder = FOLDER / "one"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "0.jpg").write_bytes(of.read_bytes() if of else honest_picture())
    return folder


def honest_picture() -> bytes:
    """Return an image in which the embedded model detects something."""
    return cv2.imencode(".jpg", samples.belt_frame(0).pixels)[1].tobytes()


def shapes_picture() -> bytes:
    """Return an image of coloured shapes, which the small models in tests/weights/ find."""
    return cv2.imencode(".jpg", scene(np.random.default_rng(1), *SHAPES_PX).pixels)[1].tobytes()


def small_picture() -> bytes:
    """Return an image of 640×480 pixels, which is cheap to decode.

    In the scaling trial, the engine only sleeps, so decoding takes most of the CPU time.
    """
    return cv2.imencode(".jpg", cv2.resize(samples.belt_frame(0).pixels, SMALL_PX))[1].tobytes()


def save_camera() -> Path:
    """Save a small video whose frame rate is low enough for an engine that takes 0.2 s per batch."""
    pictures = (cv2.resize(samples.belt_frame(number).pixels, SMALL_PX) for number in range(FRAMES))
    return samples.write_video(FOLDER / "camera.mp4", pictures, fps=CAMERA_FPS, size_px=SMALL_PX)


def save_video() -> Path:
    """Save the video file that streams play."""
    return samples.save_video(FOLDER / "belt.mp4", map(samples.belt_frame, range(FRAMES)))

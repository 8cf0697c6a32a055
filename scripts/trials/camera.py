"""A camera for trials, and a server that takes video: each is a real RTSP server in its own process."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.launch import free_port

FPS = 20
_SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's Python, which has the bindings of GStreamer
_PROGRAM = Path(__file__).with_name("rtsp_server.py")
_START_TIMEOUT_S = 60.0


class NoCamera(Exception):
    """The RTSP server is not installed or does not start."""


@contextmanager
def camera(pictures: Path, credentials: str = "", fps: int = FPS) -> Iterator[int]:
    """Run a camera that shows ``pictures/0.jpg``, ``1.jpg`` and so on in a loop at ``/cam``, and yield its port.

    Raise NoCamera if the camera does not start.
    """
    with _running("camera", str(pictures), str(fps), *filter(None, [credentials])) as port:
        yield port


@contextmanager
def recorder(file: Path, credentials: str = "") -> Iterator[int]:
    """Run a server that writes the H.264 video that is published at ``/live`` to a file, and yield its port.

    Raise NoCamera if the server does not start.
    """
    with _running("recorder", str(file), *filter(None, [credentials])) as port:
        yield port


@contextmanager
def _running(kind: str, *arguments: str) -> Iterator[int]:
    port = free_port()
    command = [_SYSTEM_PYTHON, str(_PROGRAM), str(port), kind, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        expires_at_s = time.monotonic() + _START_TIMEOUT_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > expires_at_s:
                raise NoCamera(
                    "the RTSP server does not start: run "
                    "apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
                )
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

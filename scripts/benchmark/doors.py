"""Measure the CPU time per image of the server, for the ways in which clients can send an image to a model.

python -m scripts.benchmark.doors FOLDER            send the JPEGs of a folder, and print a table

The engine is ``null``, so the table has the cost of everything except the model. The ways alternate within one run.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.benchmark.pictures import photographs
from scripts.benchmark.usage import Usage
from scripts.launch import ROOT, start, stop_on_signals
from serve_app.images.letterbox import letterbox
from serve_app.types import InputShape

FOLDER = ROOT / "build/bench"
_CLIENTS = 4
_WARM_UP, _PICTURES, _ROUNDS = 40, 120, 5
_SIDE_PX = 640
_TIMEOUT_S = 60.0
_SHOWN = ("haproxy", "Ingress", "Preprocessor", "Detector")
_TENSOR, _ENCODED = "/v2/models/default/infer", "/v2/models/default-image/infer"


@dataclass(frozen=True)
class Message:
    """A request with one image."""

    path: str
    body: bytes
    headers: dict[str, str]


def main() -> None:
    """Run the measurement, and print a table."""
    stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with JPEG files")
    pictures = photographs(parser.parse_args().folder)
    ways: dict[str, Callable[[bytes], Message]] = {
        "`POST /detect`, a JPEG": lambda jpeg: Message("/detect", jpeg, {}),
        "encoded images (BYTES), a JPEG": encoded_message,
        "a tensor, FP32": lambda jpeg: tensor_message(jpeg, "FP32"),
        "a tensor, FP16": lambda jpeg: tensor_message(jpeg, "FP16"),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    server = start(ROOT / "configs/local.yaml", FOLDER / "doors.log", variables={"SERVE_APP_ENGINE": "null"})
    try:
        server.wait_until_ready()
        used = {name: Counter[str]() for name in ways}
        for number in range(_ROUNDS + 1):
            for name, message_of in ways.items():
                messages = [message_of(jpeg) for jpeg in pictures]
                send(server.url, messages, _WARM_UP if number == 0 else 0)
                before = Usage.of(server.process.pid)
                send(server.url, messages, _PICTURES)
                if number:  # the first round only warms up
                    used[name] += Usage.of(server.process.pid).since(before)
    finally:
        server.stop()
    show(used)


def encoded_message(jpeg: bytes) -> Message:
    """Return a request with an encoded image as a tensor of the datatype BYTES."""
    data = struct.pack("<I", len(jpeg)) + jpeg
    return _message(_ENCODED, "image", "BYTES", [1], data)


def tensor_message(jpeg: bytes, kind: str) -> Message:
    """Return a request with an image that the client has decoded and letterboxed."""
    model_input = np.empty(InputShape.square(_SIDE_PX).array, np.uint8)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    letterbox(picture.astype(np.uint8, copy=False), model_input)
    planes = model_input[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    data = planes.astype(np.float16 if kind == "FP16" else np.float32).tobytes()
    return _message(_TENSOR, "images", kind, list(planes.shape), data)


def _message(path: str, name: str, kind: str, shape: list[int], data: bytes) -> Message:
    given = {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    return Message(path, text + data, {"Inference-Header-Content-Length": str(len(text))})


def send(url: str, messages: list[Message], count: int) -> None:
    """Send ``count`` requests, a few at once. Raise httpx.HTTPStatusError if one is refused."""
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as client, ThreadPoolExecutor(_CLIENTS) as threads:

        def send_one(number: int) -> None:
            message = messages[number % len(messages)]
            client.post(message.path, content=message.body, headers=message.headers).raise_for_status()

        list(threads.map(send_one, range(count)))


def show(used: dict[str, Counter[str]]) -> None:
    """Print the CPU milliseconds per image, by process."""
    table = Table(box=SIMPLE)
    for title in ("way", *_SHOWN, "others", "all"):
        table.add_column(title, justify="left" if title == "way" else "right")
    for name, cpu_s in used.items():
        per_image = {process: 1e3 * seconds / _PICTURES / _ROUNDS for process, seconds in cpu_s.items()}
        shown = [per_image.get(process, 0.0) for process in _SHOWN]
        total = sum(per_image.values())
        table.add_row(name, *(f"{value:.1f}" for value in (*shown, total - sum(shown), total)))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

"""Decode randomly damaged images in a separate process, because a decoder may crash."""

from __future__ import annotations

import subprocess
import sys

_DECODE = """
from scripts.trials.damage import damaged
from serve_app.images.decode import decode, decode_reduced
from serve_app.errors import ServeAppError
from serve_app.types import InputShape
for _ in range(3000):
    data = damaged(rng, rng.choice(images), rng.choice(images))
    try:
        pixels = decode(data, 1_000_000)
        assert pixels.dtype == "uint8" and pixels.ndim == 3 and pixels.size <= 3_000_000
        decode_reduced(data, 1_000_000, InputShape.square(8))
    except ServeAppError:
        pass
"""


def decode_damaged(make_pictures: str) -> subprocess.CompletedProcess[bytes]:
    """Decode damaged images in a new process. ``make_pictures`` is Python code that defines ``rng`` and ``images``."""
    code = make_pictures + _DECODE
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120)

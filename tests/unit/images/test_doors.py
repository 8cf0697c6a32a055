"""Damaged files and decompression bombs in the formats of phones and cameras."""

from __future__ import annotations

import subprocess
import sys

from scripts.trials.field.pictures.doors import BOMBS
from tests.support.damaged_pictures import decode_damaged

PICTURES_OF_PHONES = """
import random
from scripts.trials.field.pictures.doors import whole
rng = random.Random(0)
images = whole(rng)
"""


def test_a_damaged_picture_of_a_phone_is_decoded_or_refused_without_a_crash() -> None:
    done = decode_damaged(PICTURES_OF_PHONES)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert len(done.stderr) < 100_000


DECODE_BOMBS = """
import resource
from scripts.trials.field.pictures.doors import BOMBS
from serve_app.images.decode import decode
from serve_app.errors import ServeAppError
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for name, make in BOMBS.items():
    data = make()
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        result = "read" if decode(data, 50_000_000) is not None else ""
    except ServeAppError as exc:
        result = exc.code
    after = resource.getrusage(resource.RUSAGE_SELF)
    grown_mib = (after.ru_maxrss - before.ru_maxrss) // 1024
    print(name, result, grown_mib, round(after.ru_utime - before.ru_utime, 2), sep=":")
"""


def test_a_decompression_bomb_in_a_phone_format_costs_no_more_than_a_large_picture() -> None:
    done = subprocess.run([sys.executable, "-c", DECODE_BOMBS], capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    results = [line.split(":") for line in done.stdout.decode().splitlines()]
    assert [name for name, *_ in results] == list(BOMBS)
    assert {result for name, result, *_ in results if "claims" in name} == {"too_large"}
    # For a GIF of 49 megapixels, FFmpeg needs 4 bytes per pixel, and we need another 3: 327 MiB in total.
    assert [name for name, _, grown_mib, _ in results if int(grown_mib) > 350] == []
    assert [name for name, _, _, cpu_s in results if float(cpu_s) > 10] == []
    assert len(done.stderr) < 10_000

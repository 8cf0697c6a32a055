from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from serve_app.errors import NotAnImage, PoisonPicture
from serve_app.images.prepare import prepare, prepare_new
from serve_app.ipc.quarantine import Quarantine
from serve_app.types import InputShape
from tests.support import squares
from tests.support.squares import Square

pytestmark = pytest.mark.anyio

PICTURE = squares.encode(squares.picture([Square("red", 4, 4)], scale=2))


@pytest.fixture
async def quarantine() -> AsyncIterator[Quarantine]:
    quarantine = Quarantine()
    yield quarantine
    await quarantine.close()


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def where() -> int:
    print("the output of a library")
    return os.getpid()


async def test_work_in_quarantine_gives_the_same_result(quarantine: Quarantine) -> None:
    expected = np.empty((320, 320, 3), np.uint8)
    box, _ = prepare(PICTURE, 10**6, "exact", [InputShape.square(320)], lambda _: expected)
    found, _, pixels = await quarantine.run(prepare_new, PICTURE, 10**6, "exact", [InputShape.square(320)])
    assert found == box
    assert (pixels == expected).all()


async def test_only_work_that_kills_its_process_is_refused(quarantine: Quarantine) -> None:
    works = [quarantine.run(work) for work in (where, die, where, die, where)]
    results = await asyncio.gather(*works, return_exceptions=True)
    assert [type(result) for result in results] == [int, PoisonPicture, int, PoisonPicture, int]
    assert os.getpid() not in results


async def test_only_work_that_hangs_is_refused() -> None:
    quarantine = Quarantine(time_limit_s=1)
    with pytest.raises(PoisonPicture):
        await quarantine.run(time.sleep, 60)
    assert isinstance(await quarantine.run(where), int)
    await quarantine.close()


async def test_the_start_of_the_process_does_not_count_as_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, the start takes longer than the work, and no image is to blame for this."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(3)\ndef work(): return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    quarantine = Quarantine(time_limit_s=2)
    module = importlib.import_module("slow_to_import")
    assert await quarantine.run(module.work) == 42
    await quarantine.close()


async def test_a_process_that_was_killed_while_idle_is_replaced(quarantine: Quarantine) -> None:
    os.kill(await quarantine.run(where), signal.SIGKILL)
    assert quarantine._process is not None
    await quarantine._process.wait()
    assert isinstance(await quarantine.run(where), int)


async def test_the_error_of_the_work_is_raised(quarantine: Quarantine) -> None:
    with pytest.raises(NotAnImage):
        await quarantine.run(prepare_new, b"nothing", 10**6, "exact", [InputShape.square(320)])


async def test_the_answer_of_a_cancelled_call_does_not_go_to_the_next_one(quarantine: Quarantine) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(quarantine.run(time.sleep, 60), 1)
    assert isinstance(await quarantine.run(where), int)


async def test_the_process_ends_with_its_owner(quarantine: Quarantine) -> None:
    process = psutil.Process(await quarantine.run(where))
    await quarantine.close()
    await asyncio.to_thread(process.wait, 30)

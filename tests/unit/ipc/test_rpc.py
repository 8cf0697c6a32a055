"""Calls over a real Unix socket, within one process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Overloaded, ReplicaGone
from serve_app.ipc import dev_shm
from serve_app.ipc.rpc import _Link
from tests.support.calls import Gate, calling, echo, serving

pytestmark = pytest.mark.anyio


async def fail() -> None:
    raise ZeroDivisionError


async def open_file() -> Any:
    return Path(os.devnull).open()  # a file cannot be pickled


async def cancel() -> None:
    raise asyncio.CancelledError


class Unreadable:
    """An object that can be pickled but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


async def test_every_call_gets_its_own_answer(tmp_path: Path) -> None:
    values = [os.urandom(size) for size in (0, 1, 200_000, 3_000_000)] * 8
    async with serving(tmp_path, echo=echo), calling(tmp_path) as replicas:
        assert await asyncio.gather(*(replicas.call("echo", value) for value in values)) == values


async def test_a_method_that_fails_affects_only_its_own_call(tmp_path: Path) -> None:
    async with serving(tmp_path, echo=echo, fail=fail), calling(tmp_path) as replicas:
        calls = [replicas.call("fail"), replicas.call("echo", 1)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    failed, answered = answers
    assert (str(failed), answered) == ("fail failed: ZeroDivisionError", 1)


@pytest.mark.parametrize("method", [open_file, cancel])
async def test_an_answer_that_cannot_be_sent_becomes_an_error(tmp_path: Path, method: Any) -> None:
    async with serving(tmp_path, method=method, echo=echo), calling(tmp_path) as replicas:
        with pytest.raises(RuntimeError, match="method failed"):
            await replicas.call("method")
        assert await replicas.call("echo", 1) == 1


async def test_a_message_that_cannot_be_unpickled_affects_only_its_own_call(tmp_path: Path) -> None:
    async def unreadable() -> Any:
        return Unreadable()

    gate = Gate()
    async with serving(tmp_path, echo=echo, gate=gate, unreadable=unreadable), calling(tmp_path) as replicas:
        another = asyncio.create_task(replicas.call("gate"))
        await gate.until(begun=1)
        with pytest.raises(RuntimeError, match="a call failed: ValueError"):
            await replicas.call("echo", Unreadable())
        with pytest.raises(RuntimeError, match="an answer cannot be read: ValueError"):
            await replicas.call("unreadable")
        gate.opened.set()
        assert await another == "done"


async def test_cancelling_a_call_frees_its_place_at_the_server(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(tmp_path, max_calls=1, gate=gate, echo=echo), calling(tmp_path) as replicas:
        call = asyncio.create_task(replicas.call("gate"))
        await gate.until(begun=1)
        call.cancel()
        await gate.until(cancelled=1)
        assert await replicas.call("echo", 1) == 1


async def test_a_full_server_refuses(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(tmp_path, max_calls=2, gate=gate), calling(tmp_path) as replicas:
        calls = [asyncio.create_task(replicas.call("gate")) for _ in range(2)]
        await gate.until(begun=2)
        refusal = await replicas.call("gate")
        assert isinstance(refusal, Overloaded)
        assert refusal.limit == "preprocessor.slots"
        assert refusal.detail.startswith("preprocessor.slots: 2 calls are in flight")
        gate.opened.set()
        assert await asyncio.gather(*calls) == ["done"] * 2


async def test_a_call_over_a_closed_connection_fails_with_replica_gone(tmp_path: Path) -> None:
    async with serving(tmp_path, echo=echo):
        (path,) = dev_shm.sockets(tmp_path, "s")
        link = await _Link.to(path)
        link.close()
        with pytest.raises(ReplicaGone):
            await link.call("echo", (1,), {})

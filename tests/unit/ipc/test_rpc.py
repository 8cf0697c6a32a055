"""Calls over a real Unix socket, within one process and between two."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Overloaded, ReplicaGone
from serve_app.ipc import dev_shm
from serve_app.ipc.rpc import CallServer, LocalReplicas, _Link

pytestmark = pytest.mark.anyio

SERVER = """
import asyncio, sys
from pathlib import Path
from serve_app.ipc.rpc import CallServer

async def serve():
    async def never(*args):
        print("called", flush=True)
        await asyncio.Event().wait()
    await CallServer({"never": never}, max_calls=9, limit="preprocessor.slots").start("s", Path(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""
STRANGER = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(sys.argv[1])
    caller.sendall(sys.stdin.buffer.read())
    print(caller.recv(1000))
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def serving(folder: Path, max_calls: int = 100, **methods: Any) -> AsyncIterator[CallServer]:
    server = CallServer(methods, max_calls=max_calls, limit="preprocessor.slots")
    await server.start("s", folder)
    yield server
    await server.close()


@asynccontextmanager
async def calling(folder: Path) -> AsyncIterator[LocalReplicas]:
    replicas = LocalReplicas("s", folder)
    yield replicas
    for link in replicas._links.values():
        link.close()


async def echo(value: Any) -> Any:
    return value


async def fail() -> None:
    raise ZeroDivisionError


async def open_file() -> Any:
    return Path(os.devnull).open()  # what cannot be pickled


async def cancel() -> None:
    raise asyncio.CancelledError


class Unreadable:
    """Pickled, it cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Gate:
    """A method that answers when it is opened, and tells what became of its calls."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.opened = asyncio.Event()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"

    async def until(self, *, begun: int = 0, cancelled: int = 0) -> None:
        async with asyncio.timeout(30):
            while self.begun < begun or self.cancelled < cancelled:
                await asyncio.sleep(0.001)


async def test_every_call_gets_its_own_answer(tmp_path: Path) -> None:
    values = [os.urandom(size) for size in (0, 1, 200_000, 3_000_000)] * 8
    async with serving(tmp_path, echo=echo), calling(tmp_path) as replicas:
        assert await asyncio.gather(*(replicas.call("echo", value) for value in values)) == values


async def test_a_method_that_fails_hurts_its_own_call_only(tmp_path: Path) -> None:
    async with serving(tmp_path, echo=echo, fail=fail), calling(tmp_path) as replicas:
        failed, answered = await asyncio.gather(replicas.call("fail"), replicas.call("echo", 1), return_exceptions=True)
    assert (str(failed), answered) == ("fail failed: ZeroDivisionError", 1)


@pytest.mark.parametrize("method", [open_file, cancel])
async def test_a_caller_hears_of_an_answer_that_cannot_be_sent(tmp_path: Path, method: Any) -> None:
    async with serving(tmp_path, method=method, echo=echo), calling(tmp_path) as replicas:
        with pytest.raises(RuntimeError, match="method failed"):
            await replicas.call("method")
        assert await replicas.call("echo", 1) == 1


async def test_what_cannot_be_unpickled_fails_its_own_call_only(tmp_path: Path) -> None:
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


async def test_a_caller_that_no_longer_waits_frees_what_its_call_holds(tmp_path: Path) -> None:
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


async def test_calls_go_to_the_server_with_the_fewest_and_a_full_one_is_passed_over(tmp_path: Path) -> None:
    small, large = Gate(), Gate()
    async with (
        serving(tmp_path, max_calls=1, gate=small),
        serving(tmp_path, max_calls=9, gate=large),
        calling(tmp_path) as replicas,
    ):
        calls = [asyncio.create_task(replicas.call("gate")) for _ in range(2)]
        await asyncio.gather(small.until(begun=1), large.until(begun=1))
        calls += [asyncio.create_task(replicas.call("gate")) for _ in range(2)]
        await large.until(begun=3)
        assert small.begun == 1
        small.opened.set()
        large.opened.set()
        assert await asyncio.gather(*calls) == ["done"] * 4


async def test_calls_made_one_at_a_time_spread_over_the_servers(tmp_path: Path) -> None:
    called = []

    async def first() -> None:
        called.append("first")

    async def second() -> None:
        called.append("second")

    async with (
        serving(tmp_path, method=first),
        serving(tmp_path, method=second),
        calling(tmp_path) as replicas,
    ):
        for _ in range(50):
            await replicas.call("method")
    assert set(called) == {"first", "second"}


async def test_a_refusal_stands_when_the_next_server_ends(tmp_path: Path) -> None:
    """The service is full, not gone: the caller does not go elsewhere with a call that was refused."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as ends:
        assert ends.stdout.readline() == "ready\n"
        async with calling(tmp_path) as replicas:
            lost = asyncio.create_task(replicas.call("never"))
            assert await asyncio.to_thread(ends.stdout.readline) == "called\n"
            async with serving(tmp_path, max_calls=0):
                await replicas._scan()
                refused = asyncio.create_task(replicas.call("never"))
                assert await asyncio.to_thread(ends.stdout.readline) == "called\n"
                ends.kill()
                assert isinstance(await refused, Overloaded)
                with pytest.raises(ReplicaGone):
                    await lost


async def test_a_server_that_does_not_read_gets_no_more_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.ipc.rpc._MAX_UNSENT_BYTES", 5_000_000)
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "ready\n"
        async with calling(tmp_path) as replicas:
            calls = [asyncio.create_task(replicas.call("never"))]
            assert await asyncio.to_thread(server.stdout.readline) == "called\n"
            server.send_signal(signal.SIGSTOP)
            calls += [asyncio.create_task(replicas.call("never", bytes(1_000_000))) for _ in range(50)]
            done, waiting = await asyncio.wait(calls, timeout=1)
            assert 5 <= len(waiting) <= 8  # what its socket took besides
            assert {type(call.exception()) for call in done} == {ReplicaGone}
            server.kill()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_link_that_ended_is_not_called(tmp_path: Path) -> None:
    async with serving(tmp_path, echo=echo):
        (path,) = dev_shm.sockets(tmp_path, "s")
        link = await _Link.to(path)
        link.close()
        with pytest.raises(ReplicaGone):
            await link.call("echo", (1,))


async def test_what_others_left_in_the_folder_stops_no_server(tmp_path: Path) -> None:
    (tmp_path / "sightline-folder.sock").mkdir()
    (tmp_path / "sightline-s-folder.sock").mkdir()
    (tmp_path / "sightline-folder").mkdir()
    async with serving(tmp_path, echo=echo), calling(tmp_path) as replicas:
        assert await replicas.call("echo", 1) == 1


async def test_a_closing_server_answers_what_it_took_and_takes_nothing_new(tmp_path: Path) -> None:
    gate = Gate()
    async with calling(tmp_path) as replicas, serving(tmp_path, gate=gate, echo=echo) as server:
        dev_shm.sweep(tmp_path)  # which connects, to see whether anyone listens, and goes
        async with calling(tmp_path) as another:
            await another.call("echo", 1)
        call = asyncio.create_task(replicas.call("gate"))
        await gate.until(begun=1)
        closing = asyncio.create_task(server.close())
        await asyncio.wait([closing], timeout=0.1)
        with pytest.raises(ReplicaGone):
            await replicas.call("gate")
        gate.opened.set()
        assert await call == "done"
        await closing
    assert list(tmp_path.iterdir()) == []


async def test_a_call_to_a_killed_server_is_told_and_its_socket_swept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "ready\n"
        assert dev_shm.sweep(tmp_path) == 0
        async with calling(tmp_path) as replicas:
            call = asyncio.create_task(replicas.call("never"))
            assert await asyncio.to_thread(server.stdout.readline) == "called\n"
            server.kill()
            with pytest.raises(ReplicaGone):
                await call
            with pytest.raises(ReplicaGone):
                await replicas.call("never")
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))  # as if it had lain there for long
    assert dev_shm.sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_new_server_is_found_by_who_called_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.ipc.rpc._SCAN_PERIOD_S", 0.0)
    async with calling(tmp_path) as replicas:
        with pytest.raises(ReplicaGone):
            await replicas.call("echo", 1)
        async with serving(tmp_path, echo=echo):
            assert await replicas.call("echo", 1) == 1


async def test_another_service_is_not_found(tmp_path: Path) -> None:
    async with serving(tmp_path, echo=echo):
        replicas = LocalReplicas("t", tmp_path)
        with pytest.raises(ReplicaGone):
            await replicas.call("echo", 1)


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._trace),)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_what_another_user_sends_is_not_unpickled(public_folder: Path) -> None:
    trace = public_folder / "trace"
    message = pickle.dumps(Trap(trace))
    async with serving(public_folder, echo=echo):
        (path,) = dev_shm.sockets(public_folder, "s")
        path.chmod(0o777)
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STRANGER, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        said, _ = await stranger.communicate((1).to_bytes(8, "little") + len(message).to_bytes(4, "little") + message)
        assert said in (b"b''\n", b"")
    assert not trace.exists()

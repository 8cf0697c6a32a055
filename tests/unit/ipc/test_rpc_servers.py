"""Servers that start and end, are full, or are called by other users."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import Overloaded, ReplicaGone
from serve_app.ipc import dev_shm
from serve_app.ipc.rpc import LocalReplicas
from tests.support.calls import SERVER, Gate, calling, echo, serving

pytestmark = pytest.mark.anyio
STRANGER = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(sys.argv[1])
    caller.sendall(sys.stdin.buffer.read())
    print(caller.recv(1000))
"""


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


async def test_calls_go_to_the_least_loaded_server_and_skip_a_full_one(tmp_path: Path) -> None:
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


async def test_sequential_calls_are_spread_over_the_servers(tmp_path: Path) -> None:
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


async def test_a_call_to_all_servers_leaves_out_those_that_fail_or_are_late(tmp_path: Path) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with (
        serving(tmp_path, name=lambda: echo("first")),
        serving(tmp_path, name=lambda: echo("second")),
        serving(tmp_path, name=fail),
        serving(tmp_path, name=Gate()),
        calling(tmp_path) as replicas,
    ):
        assert sorted(await replicas.call_all("name", timeout_s=1)) == ["first", "second"]


async def test_a_refusal_stands_when_the_next_server_ends(tmp_path: Path) -> None:
    """The service is full, not gone, so the refused call must not be retried elsewhere."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as ends:
        assert line_of(ends) == "ready\n"
        async with calling(tmp_path) as replicas:
            lost = asyncio.create_task(replicas.call("never"))
            assert await asyncio.to_thread(line_of, ends) == "called\n"
            async with serving(tmp_path, max_calls=0):
                await replicas._scan()
                refused = asyncio.create_task(replicas.call("never"))
                assert await asyncio.to_thread(line_of, ends) == "called\n"
                ends.kill()
                assert isinstance(await refused, Overloaded)
                with pytest.raises(ReplicaGone):
                    await lost


async def test_a_server_that_does_not_read_gets_no_more_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.ipc.rpc._MAX_UNSENT_BYTES", 5_000_000)
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        assert line_of(server) == "ready\n"
        async with calling(tmp_path) as replicas:
            calls = [asyncio.create_task(replicas.call("never"))]
            assert await asyncio.to_thread(line_of, server) == "called\n"
            server.send_signal(signal.SIGSTOP)
            calls += [asyncio.create_task(replicas.call("never", bytes(1_000_000))) for _ in range(50)]
            done, waiting = await asyncio.wait(calls, timeout=1)
            assert 5 <= len(waiting) <= 8  # some calls are in the buffer of the socket
            assert {type(call.exception()) for call in done} == {ReplicaGone}
            server.kill()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_other_entries_in_the_folder_do_not_stop_a_server(tmp_path: Path) -> None:
    (tmp_path / "sightline-folder.sock").mkdir()
    (tmp_path / "sightline-s-folder.sock").mkdir()
    (tmp_path / "sightline-folder").mkdir()
    async with serving(tmp_path, echo=echo), calling(tmp_path) as replicas:
        assert await replicas.call("echo", 1) == 1


async def test_a_closing_server_answers_accepted_calls_and_refuses_new_ones(tmp_path: Path) -> None:
    gate = Gate()
    async with calling(tmp_path) as replicas, serving(tmp_path, gate=gate, echo=echo) as server:
        dev_shm.sweep(tmp_path)  # the sweep connects to check whether the server listens
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


async def test_a_call_to_a_killed_server_fails_and_its_socket_is_swept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert line_of(server) == "ready\n"
        assert dev_shm.sweep(tmp_path) == 0
        async with calling(tmp_path) as replicas:
            call = asyncio.create_task(replicas.call("never"))
            assert await asyncio.to_thread(line_of, server) == "called\n"
            server.kill()
            with pytest.raises(ReplicaGone):
                await call
            with pytest.raises(ReplicaGone):
                await replicas.call("never")
    assert len(list(tmp_path.iterdir())) == 1
    dev_shm.sweep_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_keeps_what_is_so_new_that_its_owner_may_still_prepare_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(tmp_path / "sightline-s-1.sock"))
        (tmp_path / "sightline-folder").mkdir()
        assert dev_shm.sweep(tmp_path) == 0
    for left in tmp_path.iterdir():
        os.utime(left, (0, 0))
    assert dev_shm.sweep(tmp_path) == 2


async def test_an_existing_caller_finds_a_new_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.ipc.rpc._SCAN_INTERVAL_S", 0.0)
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
    """An object that creates a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._trace),)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_a_message_of_another_user_is_not_unpickled(public_folder: Path) -> None:
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

"""Work that may have killed its process is done again in a process of its own, one piece after the other.

What kills or hangs that process is refused alone. The process is started when it is first needed and lives as
long as its owner: it ends when its input does.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, ParamSpec, TypeVar

from serve_app.errors import PoisonPicture, ServeAppError

_SIZE = struct.Struct("<Q")

P = ParamSpec("P")
T = TypeVar("T")


class Quarantine:
    """That process, as its owner sees it. Used from one event loop."""

    def __init__(self, time_limit_s: float = 15.0) -> None:
        """``time_limit_s``: for a piece of work, in which a process may have to be started; the largest takes two."""
        self._time_limit_s = time_limit_s
        self._lock = asyncio.Lock()
        self._process: Process | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the work returns, a function of a module. Raises PoisonPicture where its process dies or hangs."""
        async with self._lock:
            try:
                async with asyncio.timeout(self._time_limit_s):
                    worked, value = await self._ask(pickle.dumps((work, args, kwargs)))
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as exc:
                await self.close()
                raise PoisonPicture("two processes died of this picture, or hung, the second with no other") from exc
            except BaseException:
                await self.close()  # it would answer to whoever comes next
                raise
        if not worked:
            raise value
        return value  # type: ignore[no-any-return]

    async def close(self) -> None:
        """The process is no longer needed."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):  # it has ended
                process.kill()
            await process.wait()

    async def _ask(self, message: bytes) -> Any:
        if self._process is None:
            # -c, not -m: it is to find our modules where this process found them.
            code = f"import sys; sys.path[:] = {sys.path!r}; from serve_app.ipc.quarantine import serve; serve()"
            self._process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=PIPE, stdout=PIPE)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.writelines((_SIZE.pack(len(message)), message))
        await process.stdin.drain()
        (size,) = _SIZE.unpack(await process.stdout.readexactly(_SIZE.size))
        return pickle.loads(await process.stdout.readexactly(size))  # of a process of ours


def serve() -> None:
    """What that process does."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    while (message := _read(requests)) is not None:
        work, args, kwargs = pickle.loads(message)
        try:
            answer = True, work(*args, **kwargs)
        except ServeAppError as exc:
            answer = False, exc
        except Exception as exc:
            answer = False, RuntimeError(f"{work.__name__} failed: {type(exc).__name__}")
        message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        answers.write(_SIZE.pack(len(message)))
        answers.write(message)
        answers.flush()


def _read(requests: BinaryIO) -> bytes | None:
    header = requests.read(_SIZE.size)
    return requests.read(*_SIZE.unpack(header)) if header else None

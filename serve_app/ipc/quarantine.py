"""Retry work that may have crashed or hung a process, this time in a separate process.

The separate process runs one piece of work at a time. If the work crashes or hangs the separate process, too, the
work is refused, and nothing else is affected. The process is started when it is first needed. It ends with its owner,
because it exits when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import importlib
import pickle
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, ParamSpec, TypeVar

from serve_app.errors import PoisonPicture, ServeAppError, Unavailable

_SIZE = struct.Struct("<Q")
_START_TIME_LIMIT_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")


class Quarantine:
    """The owner's side of the separate process. All calls must come from one event loop."""

    def __init__(self, time_limit_s: float = 15.0) -> None:
        """Set the time limit for one piece of work. The slowest work that we have found takes 2 s."""
        self._time_limit_s = time_limit_s
        self._lock = asyncio.Lock()
        self._process: Process | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a module-level function in the process and return the function's result.

        Raise PoisonPicture when the process crashes or hangs, and Unavailable when it cannot be started. An error of
        the function is raised as a ServeAppError or a RuntimeError.
        """
        async with self._lock:
            if self._process is None or self._process.returncode is not None:
                await self._start(work.__module__)
            try:
                async with asyncio.timeout(self._time_limit_s):
                    worked, value = await self._ask(pickle.dumps((work, args, kwargs)))
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as exc:
                await self.close()
                raise PoisonPicture(
                    "two processes crashed or hung on this image, the second while processing nothing else; send "
                    "another image"
                ) from exc
            except BaseException:
                await self.close()  # otherwise the next caller would get the answer to this call
                raise
        if not worked:
            raise value
        return value  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Stop the process. The next call of ``run`` starts a new process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):  # the process has already ended
                process.kill()
            await process.wait()

    async def _start(self, module: str) -> None:
        """Start the process and let it import a module, which takes long on a busy machine.

        This is not part of the time limit, because the time does not depend on the image.
        """
        # With -c instead of -m, we can give the new process the module search path of this process.
        code = f"import sys; sys.path[:] = {sys.path!r}; from serve_app.ipc.quarantine import serve; serve()"
        try:
            async with asyncio.timeout(_START_TIME_LIMIT_S):
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", code, stdin=PIPE, stdout=PIPE
                )
                await self._ask(pickle.dumps((_import, (module,), {})))
        except (asyncio.IncompleteReadError, OSError, TimeoutError) as exc:
            await self.close()
            raise Unavailable("the separate process for suspect images cannot be started; retry later") from exc
        except BaseException:
            await self.close()
            raise

    async def _ask(self, message: bytes) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.writelines((_SIZE.pack(len(message)), message))
        await process.stdin.drain()
        (size,) = _SIZE.unpack(await process.stdout.readexactly(_SIZE.size))
        return pickle.loads(await process.stdout.readexactly(size))  # safe, because we started the process


def serve() -> None:
    """Run the requested work until standard input is closed. This is the main function of the process."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # keeps the output of libraries out of the answers
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


def _import(module: str) -> None:
    importlib.import_module(module)


def _read(requests: BinaryIO) -> bytes | None:
    header = requests.read(_SIZE.size)
    return requests.read(*_SIZE.unpack(header)) if header else None

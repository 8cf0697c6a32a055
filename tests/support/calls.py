"""Servers, clients and methods for tests of calls over Unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serve_app.ipc.rpc import CallServer, LocalReplicas

# A program that runs a server in another process. The method named ``never`` prints a line and does not return.
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


@asynccontextmanager
async def serving(folder: Path, max_calls: int = 100, **methods: Any) -> AsyncIterator[CallServer]:
    """Run a server with these methods in this process."""
    server = CallServer(methods, max_calls=max_calls, limit="preprocessor.slots")
    await server.start("s", folder)
    yield server
    await server.close()


@asynccontextmanager
async def calling(folder: Path) -> AsyncIterator[LocalReplicas]:
    """Yield a client for all servers in the folder, and close its connections at the end."""
    replicas = LocalReplicas("s", folder)
    yield replicas
    for link in replicas._links.values():
        link.close()


async def echo(value: Any) -> Any:
    """Return the argument."""
    return value


class Gate:
    """A method that counts its calls. All calls wait until ``opened`` is set."""

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

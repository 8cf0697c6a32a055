from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from serve_app.images.threads import DecodeThreads

pytestmark = pytest.mark.anyio


async def test_a_process_whose_decoder_hangs_is_killed() -> None:
    program = """
        import asyncio, threading
        from serve_app.images.threads import DecodeThreads

        async def main():
            threads = DecodeThreads(1, time_limit_s=0.2)
            started = threading.Event()

            def hang():
                started.set()
                threading.Event().wait()

            decoding = asyncio.create_task(threads.run(hang))
            await asyncio.to_thread(started.wait)
            await threads.check()  # not yet
            print("checked", flush=True)
            while True:
                await asyncio.sleep(0.05)
                await threads.check()

        asyncio.run(main())
    """
    code = f"import sys; sys.path[:] = {sys.path!r}\n{textwrap.dedent(program)}"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "checked\n")


async def test_work_that_takes_long_in_all_is_not_a_hung_decoder() -> None:
    threads = DecodeThreads(1, time_limit_s=0.5)
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        await threads.run(lambda: time.sleep(0.01))
        await threads.check()
    threads.close()


async def test_no_more_images_than_threads_are_decoded_at_the_same_time() -> None:
    threads, together, most = DecodeThreads(2), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.005)
        with lock:
            together -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(20)))
    threads.close()
    assert most == 2

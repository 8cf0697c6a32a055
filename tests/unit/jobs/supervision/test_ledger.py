from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from serve_app.errors import NotFound
from serve_app.jobs.ledger import Ledger
from serve_app.jobs.store import JobStore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("error", "logged"), [(NotFound("the job was deleted"), 0), (ValueError("a bug"), 1)])
async def test_only_a_bug_is_logged_if_a_call_fails_after_its_caller_was_cancelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, logged: int
) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    ledger, may_fail, has_begun = Ledger(JobStore(tmp_path)), threading.Event(), threading.Event()
    await ledger.acquire()

    def fail() -> None:
        has_begun.set()
        may_fail.wait()
        raise error

    call = asyncio.create_task(ledger.call(fail))
    await asyncio.to_thread(has_begun.wait)
    call.cancel()
    await asyncio.wait([call])
    may_fail.set()
    await ledger.close()
    del call
    gc.collect()
    await asyncio.sleep(0)
    assert problems == []
    assert [record.message for record in caplog.records] == ["a change of the jobs failed"] * logged

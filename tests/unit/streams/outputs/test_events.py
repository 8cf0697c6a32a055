from __future__ import annotations

import asyncio
import json
import time

import pytest
from pydantic import BaseModel

from serve_app.schemas.streams import StateChange
from serve_app.streams.outputs.events import _MAX_KEPT, EventLog
from serve_app.types import EventPage

pytestmark = pytest.mark.anyio
RUNNING = StateChange(state="running", previous="starting", detail='it says "hello"\n')


@pytest.fixture
def log() -> EventLog:
    return EventLog("lot", [], next_id=7)


def ids(log_page: EventPage) -> list[int]:
    return [event.event_id for event in log_page.events]


async def test_an_event_is_one_line_of_json_with_its_type_and_time(log: EventLog) -> None:
    log.add("state", RUNNING)
    ((event,), last_id, missed) = (await log.page(6, 0)).__dict__.values()
    fields = json.loads(event.json)
    assert fields.pop("at_s") > 1.7e9
    assert fields == {"event_id": 7, "type": "state", "stream_id": "lot"} | RUNNING.model_dump()
    assert (event.event_id, event.type, event.subject_id, last_id, missed) == (7, "state", "lot", 7, 0)
    assert "\n" not in event.json


async def test_an_event_has_each_key_once(log: EventLog) -> None:
    class Body(BaseModel):
        stream_id: str = "lot"
        frame_id: int = 3

    log.add("result", Body())
    (event,) = (await log.page(6, 0)).events
    names = json.loads(event.json, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    assert sorted(names) == ["at_s", "event_id", "frame_id", "stream_id", "type"]


async def test_a_client_that_reconnects_gets_the_events_it_missed(log: EventLog) -> None:
    for _ in range(5):
        log.add("state", RUNNING)
    assert ids(await log.page(8, 0)) == [9, 10, 11]


async def test_a_new_client_gets_future_events(log: EventLog) -> None:
    log.add("state", RUNNING)
    asking = asyncio.create_task(log.page(None, 60))
    await asyncio.sleep(0)
    assert not asking.done()
    log.add("state", RUNNING)
    assert ids(await asking) == [8]


async def test_after_the_timeout_the_page_is_empty_and_has_the_last_id(log: EventLog) -> None:
    page = await log.page(None, 0.01)
    assert (page.events, page.last_id, page.missed) == ([], 6, 0)


async def test_events_that_are_no_longer_kept_are_counted_as_missed(log: EventLog) -> None:
    for _ in range(_MAX_KEPT + 10):
        log.add("state", RUNNING)
    page = await log.page(6, 0)
    assert (page.missed, page.events[0].event_id) == (10, 17)


async def test_everything_is_read_page_by_page(log: EventLog) -> None:
    for _ in range(_MAX_KEPT):
        log.add("state", RUNNING)
    seen, after = [], 6
    while after < log.next_id - 1:
        page = await log.page(after, 0)
        seen += ids(page)
        after = seen[-1]
    assert seen == list(range(7, 7 + _MAX_KEPT))


async def test_an_event_that_arrives_at_the_timeout_is_not_skipped(log: EventLog) -> None:
    asking = asyncio.create_task(log.page(6, 0.01))
    await asyncio.sleep(0)
    time.sleep(0.02)  # so that the timeout and the event arrive together
    log.add("state", RUNNING)
    page = await asking
    assert ids(page) == [7] or page.last_id == 6

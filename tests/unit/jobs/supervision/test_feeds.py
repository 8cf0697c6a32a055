"""Tests of the events of jobs, with a real store, and with a real web server that receives webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppArgs
from serve_app.schemas.jobs import Retry
from serve_app.sinks.webhook import WebhookOutlet
from tests.support.fake_runners import (
    ADMIN,
    FakeRunners,
    args_of,
    ended,
    result_of,
    spec_of,
    status_when,
    supervision_of,
)
from tests.support.receiver import Receiver, answer
from tests.support.sinks import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


def local_args(folder: Path) -> AppArgs:
    return args_of(folder, outbound={"allowed_networks": "127.0.0.0/8"})


def webhook(receiver: Receiver, *events: str) -> dict[str, Any]:
    return {"type": "webhook", "url": f"http://127.0.0.1:{receiver.port}/", "events": list(events) or ["state"]}


def states(receiver: Receiver) -> list[str]:
    """Return the states that the receiver was told, in order."""
    bodies = [json.loads(body) for _, _, body in receiver.requests]
    return [event["state"] for body in bodies for event in body["events"]]


def states_once(receiver: Receiver) -> list[str]:
    """Return the states that the receiver was told, in order, without those that were sent again after a timeout."""
    events = [event for _, _, body in receiver.requests for event in json.loads(body)["events"]]
    return list({event["event_id"]: event["state"] for event in events}.values())


async def test_each_change_of_state_is_an_event(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await ended(supervision)
        page = await supervision.events("night", ADMIN, -1, 0)
    events = [json.loads(event.json) for event in page.events]
    changes = [(event["previous"], event["state"]) for event in events if event["type"] == "state"]
    assert changes == [("queued", "running"), ("running", "finishing"), ("finishing", "completed")]
    progress = [event for event in events if event["type"] == "progress"]
    assert (progress[-1]["succeeded"], progress[-1]["waiting"]) == (10, 0)
    assert {event["job_id"] for event in events} == {"night"}


async def test_a_waiting_client_gets_an_event_at_once(tmp_path: Path) -> None:
    runners = FakeRunners()
    async with supervision_of(tmp_path, runners) as supervision:
        await supervision.create(spec_of(tmp_path, 10, paused=True), ADMIN)
        waiting = asyncio.create_task(supervision.events("night", ADMIN, None, 1000))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await supervision.resume("night", ADMIN)
        page = await asyncio.wait_for(waiting, 60)
        assert json.loads(page.events[0].json)["previous"] == "paused"


async def test_a_client_that_waits_in_vain_gets_an_empty_page(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners()) as supervision:
        await supervision.create(spec_of(tmp_path, 10), ADMIN)
        await ended(supervision)
        newest = (await supervision.events("night", ADMIN, -1, 0)).last_id
        page = await supervision.events("night", ADMIN, newest, 0.01)
        assert (page.events, page.last_id, page.missed) == ([], newest, 0)


async def test_a_webhook_is_told_the_states(tmp_path: Path, receiver: Receiver) -> None:
    async with supervision_of(tmp_path, FakeRunners(), local_args(tmp_path)) as supervision:
        await supervision.create(spec_of(tmp_path, 10, sinks=[webhook(receiver)]), ADMIN)
        await ended(supervision)
        await until(lambda: "completed" in states(receiver), "the webhook")
        status = await status_when(supervision, lambda status: status.sinks[0].sent == 3)
        assert status.sinks[0].waiting == 0
    assert states(receiver) == ["running", "finishing", "completed"]


async def test_a_new_supervision_sends_what_was_not_sent(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [answer(500)] * 1000
    args = local_args(tmp_path)
    async with supervision_of(tmp_path, FakeRunners(), args) as supervision:
        await supervision.create(spec_of(tmp_path, 10, sinks=[webhook(receiver)]), ADMIN)
        await ended(supervision)
        await until(lambda: receiver.requests, "the first attempt")
    receiver.answers, receiver.requests = [], []
    async with supervision_of(tmp_path, FakeRunners(), args):
        await until(lambda: "completed" in states(receiver), "the webhook")
    assert states(receiver) == ["running", "finishing", "completed"]
    receiver.requests = []
    async with supervision_of(tmp_path, FakeRunners(), args) as supervision:
        await supervision.create(spec_of(tmp_path, 10, "other", sinks=[webhook(receiver)]), ADMIN)
        await ended(supervision, "other")
        await until(lambda: "completed" in states(receiver), "the webhook of the other job")
    assert len(states(receiver)) == 3  # nothing of the first job is sent twice


async def test_a_webhook_that_answers_late_is_also_told_about_a_retry(tmp_path: Path, receiver: Receiver) -> None:
    runners = FakeRunners(lambda unit: result_of(unit, failing=frozenset({"00001.jpg"})))
    receiver.gate.clear()
    async with supervision_of(tmp_path, runners, local_args(tmp_path)) as supervision:
        await supervision.create(spec_of(tmp_path, 10, sinks=[webhook(receiver)]), ADMIN)
        await status_when(supervision, lambda status: status.state == "completed" and status.sinks[0].waiting == 3)
        await supervision.retry("night", ADMIN, Retry())
        assert (await ended(supervision)).state == "completed"
        receiver.gate.set()
        await until(lambda: len(states_once(receiver)) >= 6, "the webhook", within_s=20)
    assert states_once(receiver) == 2 * ["running", "finishing", "completed"]


async def test_a_webhook_is_told_about_a_retry_while_its_connections_are_being_closed(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, may_close = asyncio.Event(), asyncio.Event()
    close = WebhookOutlet.close

    async def close_slowly(outlet: WebhookOutlet) -> None:
        closing.set()
        await may_close.wait()
        await close(outlet)

    monkeypatch.setattr(WebhookOutlet, "close", close_slowly)
    runners = FakeRunners(lambda unit: result_of(unit, failing=frozenset({"00001.jpg"})))
    async with supervision_of(tmp_path, runners, local_args(tmp_path)) as supervision:
        await supervision.create(spec_of(tmp_path, 10, sinks=[webhook(receiver)]), ADMIN)
        await ended(supervision)
        await asyncio.wait_for(closing.wait(), 20)
        await supervision.retry("night", ADMIN, Retry())
        assert (await ended(supervision)).state == "completed"
        may_close.set()
        await until(lambda: len(states(receiver)) >= 6, "the webhook", within_s=20)
    assert states(receiver) == 2 * ["running", "finishing", "completed"]


async def test_a_webhook_that_does_not_answer_holds_nothing_up(tmp_path: Path, receiver: Receiver) -> None:
    receiver.gate.clear()
    async with supervision_of(tmp_path, FakeRunners(), local_args(tmp_path)) as supervision:
        await supervision.create(spec_of(tmp_path, 100, sinks=[webhook(receiver, "state", "progress")]), ADMIN)
        assert (await ended(supervision)).state == "completed"
        await supervision.delete("night", ADMIN)
    receiver.gate.set()


async def test_a_job_reports_progress_while_it_runs(tmp_path: Path) -> None:
    async with supervision_of(tmp_path, FakeRunners(closing=True)) as supervision:
        await supervision.create(spec_of(tmp_path, 500), ADMIN)
        page = await supervision.events("night", ADMIN, -1, 60)
        while not any(event.type == "progress" for event in page.events):
            page = await supervision.events("night", ADMIN, page.last_id, 60)

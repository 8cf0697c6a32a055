"""Tests of the webhook sink with a server that is slow, unreachable, or answers with errors."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
import standardwebhooks

from serve_app.types import Event
from tests.integration.sinks.conftest import QUEUE_SIZE, opened, put
from tests.support.receiver import Receiver, answer
from tests.support.sinks import SECRET, event, until

pytestmark = pytest.mark.anyio


def webhook(receiver: Receiver, **spec: Any) -> Any:
    return opened(type="webhook", **{"url": f"http://127.0.0.1:{receiver.port}/hook"} | spec)


async def test_a_webhooks_signature_follows_the_specification(receiver: Receiver) -> None:
    async with webhook(receiver, secret=SECRET) as sink:
        sink.put(Event(0, "result", "lot", '{"event_id": 0, "label": "Fußgänger", "at": 1.50}'))
        await sink.close(60)
    ((first, headers, body),) = receiver.requests
    assert first == "POST /hook HTTP/1.1"
    assert headers["content-type"] == "application/json"
    found = standardwebhooks.Webhook(SECRET).verify(body, headers)
    assert found == {"events": [{"event_id": 0, "label": "Fußgänger", "at": 1.5}]}
    assert b'"at": 1.50' in body  # the sink sends the original text of the event
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(body + b" ", headers)


async def test_a_webhook_without_a_secret_is_not_signed(receiver: Receiver) -> None:
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await sink.close(60)
    ((_, headers, _),) = receiver.requests
    assert "webhook-signature" not in headers
    assert headers["webhook-id"].startswith("msg_")


async def test_events_arrive_in_order_in_requests_of_limited_size(receiver: Receiver) -> None:
    async with webhook(receiver, max_batch=30) as sink:
        put(sink, range(100))
        await sink.close(60)
        assert sink.status().sent == 100
    assert [len(events) for events in receiver.events()] == [30, 30, 30, 10]
    assert list(itertools.chain(*receiver.events())) == list(range(100))


async def test_a_slow_webhook_loses_its_oldest_events_and_counts_them(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with webhook(receiver, max_batch=1) as sink:
        sink.put(event(0))
        await until(lambda: receiver.requests)
        put(sink, range(1, QUEUE_SIZE + 11))
        status = sink.status()
        assert (status.sent, status.waiting, status.dropped) == (0, QUEUE_SIZE + 1, {"queue_full": 10})
        receiver.gate.set()
        await sink.close(60)
        assert sink.status().sent == QUEUE_SIZE + 1
    assert list(itertools.chain(*receiver.events())) == [0, *range(11, QUEUE_SIZE + 11)]


async def test_a_webhook_that_does_not_answer_in_time_is_retried(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await until(lambda: sink.status().detail == "no answer within 5 s")
        receiver.gate.set()
        await until(lambda: sink.status().sent)
        assert sink.status().detail == ""


async def test_events_queued_while_the_webhook_was_down_arrive_when_it_is_back(receiver: Receiver) -> None:
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await until(lambda: sink.status().sent)
        await receiver.stop()
        sink.put(event(1))
        await until(lambda: sink.status().detail.startswith("the server cannot be reached"))
        put(sink, range(2, 10))
        await receiver.start()
        await until(lambda: sink.status().sent == 10)
        assert sink.status().detail == ""
    assert receiver.events() == [[0], [1], list(range(2, 10))]


@pytest.mark.parametrize(
    "failure", [answer(500), answer(503), answer(408), answer(429), b"HTTP/1.1 2", b"nonsense\r\n\r\n"]
)
async def test_a_transient_failure_is_retried_with_the_same_id(failure: bytes, receiver: Receiver) -> None:
    receiver.answers += [failure, answer(500)]
    async with webhook(receiver, secret=SECRET) as sink:
        put(sink, range(3))
        if b"Reason" not in failure:
            await until(lambda: receiver.requests)
            await receiver.stop()
            await receiver.start()
        await until(lambda: sink.status().sent == 3)
    assert receiver.events() == [[0, 1, 2]] * 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 1
    for _, headers, body in receiver.requests:
        standardwebhooks.Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_refused_events_are_dropped_and_the_next_ones_are_sent(status: int, receiver: Receiver) -> None:
    receiver.answers.append(answer(status))
    async with webhook(receiver) as sink:
        put(sink, range(3))
        await until(lambda: sink.status().dropped)
        assert (sink.status().dropped, sink.status().detail) == ({"refused": 3}, f"the server answered {status}")
        sink.put(event(3))
        await sink.close(60)
        assert (sink.status().sent, sink.status().detail) == (1, "")
    assert receiver.events() == [[0, 1, 2], [3]]


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers.append(answer(307, f"location: http://127.0.0.1:{receiver.port}/elsewhere\r\n"))
    async with webhook(receiver) as sink:
        sink.put(event(0))
        await sink.close(60)
        assert (sink.status().dropped, sink.status().detail) == ({"refused": 1}, "the server answered 307")
    assert len(receiver.requests) == 1


async def test_an_endless_answer_is_not_read(receiver: Receiver) -> None:
    receiver.answers.append(answer(200, body=bytes(50_000_000)))
    async with webhook(receiver) as sink:
        put(sink, range(1))
        await until(lambda: sink.status().sent == 1)
        put(sink, range(1, 2))
        await until(lambda: sink.status().sent == 2)
    assert receiver.events() == [[0], [1]]


async def test_closing_drops_events_for_a_webhook_that_does_not_answer(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with webhook(receiver, max_batch=2) as sink:
        put(sink, range(5))
        await until(lambda: receiver.requests)
        await sink.close(0)
        assert (sink.status().sent, sink.status().waiting, sink.status().dropped) == (0, 0, {"closed": 5})


async def test_a_webhooks_secrets_are_never_logged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answers += [answer(500), answer(404)]
    url = f"http://me:hunter2@127.0.0.1:{receiver.port}/hunter2?key=hunter2"
    async with webhook(receiver, url=url, secret=SECRET) as sink:
        sink.put(event(0))
        await until(lambda: sink.status().dropped)
    assert "the server answered 500" in caplog.text
    assert "hunter2" not in caplog.text
    assert SECRET.removeprefix("whsec_") not in caplog.text

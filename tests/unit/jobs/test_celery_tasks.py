"""Tests of the jobs that Celery tasks stand for."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.errors import Conflict, InvalidParameter, NoSpace, Overloaded, Unavailable
from serve_app.jobs.celery_tasks import detect_job, job_id_of, when_there_is_room, whole_job


@pytest.mark.parametrize(
    ("url", "kind"),
    [("https://example.org/1.jpg", "urls"), ("s3://dock/1.jpg", "objects"), ("/media/1.jpg", "files")],
)
def test_a_detect_task_is_a_job_of_one_item(url: str, kind: str) -> None:
    spec = detect_job("night-1", {"url": url, "confidence": 0.4, "classes": ["person"]})
    assert (spec.id, spec.source.type) == ("night-1", kind)
    assert (spec.detect.confidence, spec.detect.classes) == (0.4, ["person"])


def test_a_task_that_is_sent_twice_has_the_same_job() -> None:
    assert job_id_of("night/1") == job_id_of("night/1")
    assert job_id_of("night/1") != job_id_of("night/2")
    assert job_id_of("night-1") == "night-1"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"url": ""}, {"url": "s3://a", "confidence": 2}, {"url": "s3://a", "unknown": 1}, {"url": ["s3://a"]}],
)
def test_wrong_arguments_of_a_detect_task_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=r"^sightline\.detect\.v1: "):
        detect_job("1", arguments)


def test_a_job_task_has_the_id_of_its_task() -> None:
    job = {"source": {"type": "objects", "uri": "s3://dock/in/"}}
    assert whole_job("night-28", {"job": job}).id == "night-28"
    assert whole_job("night-28", {"job": job | {"id": "night-28"}}).id == "night-28"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"job": []},
        {"job": {"source": {"type": "nowhere"}}},
        {"job": {"id": "other", "source": {"type": "upload"}}},
        {"job": {"source": {"type": "objects", "uri": "s3://a"}}, "more": 1},
        {"job": {"source": {"type": "upload"}}},
    ],
)
def test_wrong_arguments_of_a_job_task_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=r"^sightline\.job\.v1: "):
        whole_job("night-28", arguments)


def test_a_refusal_does_not_repeat_the_arguments() -> None:
    with pytest.raises(InvalidParameter) as error:
        detect_job("1", {"url": "https://u:secret@example.org", "confidence": "secret"})
    assert "secret" not in error.value.detail


def test_a_task_waits_while_there_is_no_room() -> None:
    refusals = [NoSpace("the disk is full"), Overloaded("too many jobs"), Unavailable("it restarts")]
    pauses = []

    def take() -> str:
        if refusals:
            raise refusals.pop()
        return "stored"

    assert when_there_is_room(take, lambda: pauses.append(1)) == "stored"
    assert len(pauses) == 3


def test_a_task_that_is_refused_does_not_wait() -> None:
    def take() -> None:
        raise Conflict("the job exists")

    def pause() -> None:
        raise AssertionError("a refusal is final")

    with pytest.raises(Conflict):
        when_there_is_room(take, pause)

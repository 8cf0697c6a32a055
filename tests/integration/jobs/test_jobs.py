"""Tests of jobs in a running application. Some of them kill processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.types import Json
from tests.integration.conftest import Service, eventually, replicas
from tests.integration.jobs.conftest import PICTURES, act, create, ended, results, status_when
from tests.integration.streams.conftest import kill


@pytest.fixture(scope="module")
def undisturbed(service: Service, folder: Path) -> list[Json]:
    """Return the results of a job during which nothing dies. No JobRunner runs before."""
    eventually(lambda: not replicas("JobRunner"), what="the end of all job runners")
    create(service, folder)
    status = ended(service)
    assert (status["state"], status["succeeded"], status["failed"]) == ("completed", PICTURES, 0)
    assert status["units"]["repeated"] == 0
    found = results(service)
    with service.client() as client:
        lines = client.get("/jobs/night/results").raise_for_status().text.splitlines()
        client.delete("/jobs/night")
    assert len(lines) == PICTURES
    return found


def test_a_job_has_the_answers_of_detect(service: Service, folder: Path, undisturbed: list[Json]) -> None:
    assert [one["item"] for one in undisturbed] == list(range(PICTURES))
    paths = sorted(folder.iterdir())
    assert [one["name"] for one in undisturbed] == [path.name for path in paths]
    with service.client() as client:
        for path, result in list(zip(paths, undisturbed, strict=True))[::50]:
            answer = client.post("/detect", content=path.read_bytes()).json()
            assert (result["count"], result["image"]) == (answer["count"], answer["image"])
            assert result["model"].partition("@")[0] == answer["model"]
            key = lambda found: (found["label"], found["bbox"]["x1"], found["bbox"]["y1"])  # noqa: E731
            assert sorted(result["detections"], key=key) == sorted(answer["detections"], key=key)


# test_trials kills Detectors while clients and a stream use them
@pytest.mark.parametrize(
    "victim", ["JobRunner", "JobSupervisor", pytest.param("Detector", marks=pytest.mark.only_with_chaos)]
)
def test_a_killed_process_neither_loses_nor_doubles_a_result(
    service: Service, folder: Path, undisturbed: list[Json], victim: str
) -> None:
    create(service, folder)
    status_when(service, lambda status: 0 < status["succeeded"] < PICTURES)
    for process in replicas(victim):
        kill(process)
    status = ended(service)
    assert (status["state"], status["items"]) == ("completed", PICTURES)
    assert (status["succeeded"], status["failed"]) == (PICTURES, 0)
    assert results(service) == undisturbed
    if victim != "Detector":
        assert status["units"]["repeated"] > 0


def test_a_cancelled_job_stores_nothing_more(service: Service, folder: Path) -> None:
    create(service, folder)
    status_when(service, lambda status: 0 < status["succeeded"] < PICTURES)
    status = act(service, "cancel")
    assert status["state"] == "cancelled"
    found = results(service)
    assert len(found) == status["succeeded"] < PICTURES
    later = status_when(service, lambda status: True)
    assert (later["succeeded"], later["units"]) == (status["succeeded"], status["units"])


def test_a_paused_job_continues_when_it_is_resumed(service: Service, folder: Path, undisturbed: list[Json]) -> None:
    create(service, folder)
    status_when(service, lambda status: 0 < status["succeeded"] < PICTURES)
    assert act(service, "pause")["state"] == "paused"
    status = status_when(service, lambda status: not status["in_flight"])
    assert status["state"] == "paused"
    assert status["succeeded"] < PICTURES
    act(service, "resume")
    assert ended(service)["succeeded"] == PICTURES
    assert results(service) == undisturbed

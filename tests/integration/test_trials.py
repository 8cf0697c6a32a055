"""Run the trials in scripts/trials, with few repetitions of each fault. With --chaos they run in full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from scripts.launch import is_ready
from scripts.trials import jobs
from scripts.trials.churn import churn
from scripts.trials.cluster import Cluster, detectors
from scripts.trials.crowd import crowd
from scripts.trials.disconnects import MIN_DISCONNECTS, disconnect
from scripts.trials.hostile import hostile
from scripts.trials.job_node import losing_node, two_machines
from scripts.trials.kills import VICTIMS, kill
from scripts.trials.loads import HttpLoad, StreamLoad
from scripts.trials.mixed import SECOND, mix
from scripts.trials.node import SEVERAL_NODES, lose_node
from scripts.trials.random_kills import random_kills
from scripts.trials.reference import save_second_model
from scripts.trials.resize import resize
from scripts.trials.scale import Plan, scale, scaling_config
from scripts.trials.stage import (
    CONFIG,
    FOLDER,
    honest_picture,
    local_config,
    save_one_picture,
    serving,
    small_picture,
)
from scripts.trials.swap import swap
from tests.integration.conftest import SLOTS, Service, eventually, rtsp_camera
from tests.support import squares
from tests.support.squares import Square
from tests.support.videos import save_video


@pytest.fixture
def tried(service: Service) -> Cluster:
    return Cluster(service.url, os.getpid())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Save a video of 60 frames, with a duration of 3 s."""
    return save_video(tmp_path / "squares.avi", frames=60, fps=20)


def quiet(done: float) -> None:
    """Ignore the progress of a trial."""


def test_a_camera_is_reconnected_after_every_disconnect_without_leaks(
    tried: Cluster, pictures: Path, chaos: bool
) -> None:
    with rtsp_camera(pictures) as port:
        trial = disconnect(tried, port, 200 if chaos else MIN_DISCONNECTS, quiet)
    assert trial.problems == []


@pytest.mark.only_with_chaos  # the tests of capture cover each kind of broken camera
def test_a_broken_camera_does_not_affect_the_others(tried: Cluster, pictures: Path) -> None:
    with rtsp_camera(pictures, fps=2) as port:
        trial = crowd(tried, port, 16, 120, quiet)
    assert trial.problems == []


def test_kills_lose_no_request_and_count_no_frame_twice(
    tried: Cluster, video: Path, stream_folders: dict[str, str], chaos: bool
) -> None:
    picture = squares.encode(squares.picture([Square("red", 4, 4), Square("blue", 20, 20)]))
    # These tests run Serve's own proxy, so there is no HAProxy to kill.
    victims = tuple(victim for victim in VICTIMS if victim != "HAProxy") if chaos else ("StreamWorker", "Detector")
    trial = kill(tried, video, picture, Path(stream_folders["output_dir"]), victims, 10 if chaos else 1, quiet)
    assert trial.problems == []
    assert trial.gaps == (10 if chaos else 1)


@pytest.mark.only_with_chaos  # a test of the lifecycle deletes a stream
def test_started_and_deleted_streams_leave_nothing_behind(tried: Cluster, video: Path, chaos: bool) -> None:
    assert churn(tried, video, 200 if chaos else 2, quiet).problems == []


@pytest.mark.only_with_chaos  # starts a second node
def test_the_streams_of_a_dead_node_continue_on_another_node(tried: Cluster, video: Path) -> None:
    picture = squares.encode(squares.picture([Square("red", 4, 4)]))
    assert lose_node(tried, video, picture, 3, quiet).problems == []


@pytest.mark.only_with_chaos  # starts a second node
def test_draining_a_node_loses_no_frame(
    tried: Cluster, video: Path, stream_folders: dict[str, str], chaos: bool
) -> None:
    picture = squares.encode(squares.picture([Square("red", 4, 4)]))
    output_dir = Path(stream_folders["output_dir"])
    trial = resize(tried, video, picture, output_dir, (), 3 if chaos else 1, quiet)
    assert trial.problems == []


def test_hostile_requests_break_nothing(tried: Cluster, video: Path, chaos: bool) -> None:
    honest = squares.encode(squares.picture([squares.Square("red", 5, 10), squares.Square("blue", 20, 10)]))
    trial = hostile(tried, 7, 20_000 if chaos else 300, honest, SLOTS, video, quiet)
    assert trial.problems == []


@pytest.mark.only_with_chaos  # test_tasks serves several models, and a test of the lifecycle updates an application
def test_two_models_serve_at_once_and_one_is_changed_without_downtime() -> None:
    """Run scripts/serve and scripts/deploy.py, as users do."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    second, pictures = str(save_second_model(FOLDER)), save_one_picture(None)
    loads = dict.fromkeys(("default", SECOND), honest_picture())
    with serving(local_config({"models": {SECOND: {"weights": second}}})) as cluster:
        assert mix(cluster, FOLDER, loads, 60, quiet).problems == []
        trial = swap(cluster, CONFIG, (second, "codes"), pictures, 20, quiet)
    assert trial.problems == []
    assert "OpenVINO cannot read broken.onnx" in trial.refusal


@pytest.mark.only_with_chaos
def test_kills_lose_no_item_of_a_job_and_double_none() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with serving(local_config({"model": {"engine": "null"}})) as cluster:
        folder = jobs.link_pictures([small_picture()], FOLDER / "many", 20_000)
        kills = partial(random_kills, jobs.VICTIMS, 2, 22)
        assert jobs.run_twice(cluster, folder, 20_000, kills, quiet, FOLDER).problems == []


@pytest.mark.only_with_chaos
def test_a_dead_node_loses_no_item_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv(SEVERAL_NODES, "1")
    with serving(two_machines()) as cluster:
        folder = jobs.link_pictures([small_picture()], FOLDER / "many", 12_000)
        assert jobs.run_twice(cluster, folder, 12_000, losing_node, quiet, FOLDER).problems == []


@contextmanager
def scaled(service: Service, plan: Plan, *, max_batch_size: int) -> Iterator[Cluster]:
    """Run a second application with configs/gpu.yaml, but without GPUs and with shorter autoscaling delays."""
    (application,) = scaling_config(max_batch_size=max_batch_size, plan=plan)["applications"]
    application |= {"name": "scaled", "route_prefix": "/scaled"}
    application["args"] |= {"streams": service.args["streams"]}
    for deployment in application["deployments"]:
        deployment["ray_actor_options"] = {"num_cpus": 0.1}
        if "autoscaling_config" in deployment:
            deployment["autoscaling_config"] |= {
                "look_back_period_s": 2.5,
                "metrics_interval_s": 1,
                "upscale_delay_s": 1,
            }
        else:
            deployment["num_replicas"] = 1
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[application]))
    cluster = Cluster(f"{service.url}/scaled", os.getpid())
    try:
        eventually(lambda: is_ready(cluster.url), what="readiness")
        yield cluster
    finally:
        serve.delete("scaled")


def scaled_detectors() -> tuple[int, int]:
    return detectors(_get_global_client().get_serve_details(), "scaled")


@pytest.mark.only_with_chaos  # unit tests and a simulation cover the policy's decisions
def test_detectors_follow_the_load(service: Service, chaos: bool) -> None:
    """Send 60 images/s, which is 1.5 times the capacity of one Detector."""
    plan = Plan(low=10, high=60, least=1, most=2, low_s=1, hold_s=60 if chaos else 1, downscale_delay_s=1)
    picture = squares.encode(squares.picture([Square("red", 4, 4)]))
    with (
        scaled(service, plan, max_batch_size=8) as cluster,
        HttpLoad(f"{cluster.url}/detect", picture) as load,
    ):
        trial = scale(scaled_detectors, load, plan, quiet)
    assert trial.problems == []
    changes = trial.changes(0, trial.end_s)
    assert changes == [2, 1] if chaos else (changes[0], changes[-1]) == (2, 1)  # a busy machine can stall for 1 s


@pytest.mark.only_with_chaos
def test_detectors_follow_the_demand_of_streams(service: Service, tmp_path: Path) -> None:
    """Run six streams of 2.5 fps each. The total of 15 fps is 1.5 times the capacity of one Detector."""
    plan = Plan(low=1, high=6, least=1, most=2, low_s=2, hold_s=60, downscale_delay_s=10)
    video = save_video(tmp_path / "slow.avi", frames=60, fps=2.5)
    with (
        scaled(service, plan, max_batch_size=2) as cluster,
        StreamLoad(cluster, video) as load,
    ):
        trial = scale(scaled_detectors, load, plan, quiet)
    assert trial.problems == []

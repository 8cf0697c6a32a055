"""Tests of the autoscaling policy for Detectors. Some of them simulate time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from anyio import wait_all_tasks_blocked
from ray.serve import autoscaling_policy
from ray.serve.config import AutoscalingConfig

from scripts.benchmark.simulation import VirtualLoop
from serve_app.deployments.autoscaling import (
    BACKLOG_S,
    BACKLOG_WITHOUT_JOBS_S,
    DEMAND,
    DEMAND_WITHOUT_JOBS,
    JOB_SHARE,
    TargetUtilisation,
    figures,
)
from serve_app.inference.batcher import Batcher
from tests.support.batching import GatedEngine, TimedEngine, batching, submit
from tests.support.clock import Clock

POLICY = TargetUtilisation(utilisation=0.8, calm=0.6, backlog_within_s=1)


def context(target: int, *demands: float, backlog_s: float = 0.0, waiting: int = 0, **config: Any) -> SimpleNamespace:
    """Return the context that Serve passes to the policy.

    ``target`` is the current target number of replicas, and ``demands`` has the reported demand of each replica.
    """
    return SimpleNamespace(
        aggregated_metrics={DEMAND: dict(enumerate(demands)), BACKLOG_S: {0: backlog_s}} if demands else {},
        target_num_replicas=target,
        current_num_replicas=target,
        total_num_requests=waiting,
        policy_state={},
        config=AutoscalingConfig(**config),
    )


@pytest.mark.parametrize(
    ("demands", "replicas"),
    [([0.0], 0), ([0.5], 1), ([0.8], 1), ([0.9], 2), ([1.0, 1.0], 3), ([2.9], 4), ([0.1, 0.1, 0.1], 1)],
)
def test_engines_are_busy_for_the_target_share_of_the_time(demands: list[float], replicas: int) -> None:
    assert POLICY(context(0, *demands)) == (replicas, {})


def test_calm_is_at_most_the_target_utilisation() -> None:
    assert (
        TargetUtilisation(utilisation=0.5)(context(2, 0.6)) == TargetUtilisation(0.5, 0.5)(context(2, 0.6)) == (2, {})
    )


@pytest.mark.parametrize(("backlog_s", "replicas"), [(0.0, 2), (0.5, 2), (2.0, 4), (6.0, 9)])
def test_a_backlog_adds_enough_replicas_to_clear_it_in_time(backlog_s: float, replicas: int) -> None:
    assert POLICY(context(1, 1.0, backlog_s=backlog_s))[0] == replicas


@pytest.mark.parametrize(("demand", "replicas"), [(3.2, 4), (2.4, 4), (1.9, 4), (1.8, 3), (1.2, 2), (0.6, 1), (0, 0)])
def test_a_replica_is_removed_only_if_the_others_stay_calm(demand: float, replicas: int) -> None:
    assert POLICY(context(4, demand - 1e-9))[0] == replicas


@pytest.mark.parametrize(
    ("others", "share", "replicas"),
    [(0.0, 0.5, 4), (0.0, 0.0, 1), (0.0, 1.0, 8), (0.0, 0.3, 3), (4.8, 0.5, 6), (1.6, 0.0, 2)],
)
def test_jobs_raise_the_number_of_replicas_only_up_to_their_share(others: float, share: float, replicas: int) -> None:
    seen = context(1, 8.0, backlog_s=9.0, max_replicas=8)
    seen.aggregated_metrics |= {DEMAND_WITHOUT_JOBS: {0: others}, BACKLOG_WITHOUT_JOBS_S: {0: 0}, JOB_SHARE: {0: share}}
    assert min(POLICY(seen)[0], 8) == replicas


@pytest.mark.anyio
async def test_a_detector_reports_its_demand_with_and_without_jobs() -> None:
    clock = Clock()
    engine = TimedEngine(clock, lambda size: 0.5 * size)
    async with batching(engine, max_batch_size=1, items_per_s=2, clock=clock) as batcher:
        await asyncio.gather(*submit(batcher, 1, time_left_s=1e6))
        await asyncio.gather(*submit(batcher, *range(3), time_left_s=1e6, traffic="job"))
        clock.now_s = 10
        found = figures(batcher, 0.25)
    assert found[DEMAND] == pytest.approx(0.2)
    assert found[DEMAND_WITHOUT_JOBS] == pytest.approx(0.05)
    assert found[JOB_SHARE] == 0.25


@pytest.mark.anyio
async def test_the_backlog_of_jobs_is_told_apart() -> None:
    async with batching(GatedEngine(), max_batch_size=1, max_queue_size=100, items_per_s=10) as batcher:
        tasks = submit(batcher, *range(4)) + submit(batcher, *range(20), traffic="job")
        await wait_all_tasks_blocked()
        found = figures(batcher, 1)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert found[BACKLOG_S] == pytest.approx(2.2)  # of 24 items, one is in the engine, and one is in the next batch
    assert found[BACKLOG_WITHOUT_JOBS_S] == pytest.approx(0.2)


def test_without_reports_no_replica_is_wanted() -> None:
    assert POLICY(context(1)) == (0, {})


def served(now_s: list[float], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[int, dict[str, Any]]]:
    """Return the policy with the delays and limits that Serve adds. ``now_s[0]`` is the time that Serve sees."""
    monkeypatch.setattr(autoscaling_policy, "time", SimpleNamespace(time=lambda: now_s[0]))
    policy: Callable[[Any], tuple[int, dict[str, Any]]] = autoscaling_policy._apply_autoscaling_config(POLICY)
    return policy


def test_an_unused_model_scales_to_zero_and_back_to_one_for_a_waiting_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    policy = served(now_s, monkeypatch)
    config = {"min_replicas": 0, "max_replicas": 4, "downscale_to_zero_delay_s": 600}
    idle = context(1, 0.0, **config)
    for now_s[0], replicas in ((0, 1), (599, 1), (600, 0)):
        wanted, idle.policy_state = policy(idle)
        assert wanted == replicas
    assert policy(context(0, **config))[0] == 0
    assert policy(context(0, waiting=1, **config))[0] == 1


class Simulation:
    """A simulation, in virtual time, of Serve's autoscaler and of Detectors whose engine only sleeps.

    Requests arrive at random times.
    """

    BATCH_S, MAX_BATCH_SIZE = 0.2, 8
    START_S = 5.0  # the time until a new replica serves requests
    CONTROL_INTERVAL_S = 0.3  # of Serve's controller
    REPORT_INTERVAL_S, REPORTS = 1.2, 5  # the policy sees the mean of the last five reports

    def __init__(self) -> None:
        self.targets: list[tuple[float, int]] = []  # the time and the new value of each change
        self._replicas: list[tuple[Batcher[int, int], list[tuple[float, float]]]] = []

    async def run(self, rates: list[tuple[float, float]], policy: Callable[[Any], Any]) -> None:
        """Run the simulation. ``rates`` has pairs of an arrival rate in images/s and its duration in seconds."""
        self._add()
        parts = [asyncio.create_task(part) for part in (self._scale(policy), self._report())]
        requests = []
        for rate, duration_s in rates:
            rng, ends_at_s = random.Random(rate), self._now_s() + duration_s
            while self._now_s() < ends_at_s:
                await asyncio.sleep(rng.expovariate(rate))
                batcher, _ = min(self._replicas, key=lambda replica: (replica[0].load, rng.random()))
                requests.append(asyncio.create_task(batcher.submit(0, time_left_s=60)))
        await asyncio.gather(*requests)
        for part in parts:
            part.cancel()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _add(self) -> None:
        async def engine(items: list[int]) -> list[int]:
            await asyncio.sleep(self.BATCH_S)
            return items

        batcher = Batcher(
            engine,
            max_batch_size=self.MAX_BATCH_SIZE,
            max_queue_size=10_000,
            weights={"interactive": 1},
            items_per_s=self.MAX_BATCH_SIZE / self.BATCH_S,
            clock_s=self._now_s,
        )
        self._replicas.append((batcher, []))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self.REPORT_INTERVAL_S)
            for batcher, reports in self._replicas:
                reports.append((sum(batcher.take_demand().values()), batcher.backlog_s))

    async def _scale(self, policy: Callable[[Any], Any]) -> None:
        target = 1
        state: dict[str, Any] = {}
        while True:
            await asyncio.sleep(self.CONTROL_INTERVAL_S)
            means = [np.mean(reports[-self.REPORTS :], axis=0) for _, reports in self._replicas if reports]
            seen = context(target, upscale_delay_s=3, downscale_delay_s=30)
            demands, backlogs_s = zip(*means, strict=True) if means else ((), ())
            seen.aggregated_metrics = {DEMAND: dict(enumerate(demands)), BACKLOG_S: dict(enumerate(backlogs_s))}
            seen.policy_state = state
            wanted, state = policy(seen)
            if (wanted := min(max(wanted, 1), 4)) == target:
                continue
            self.targets.append((self._now_s(), wanted))
            for _ in range(wanted - target):
                asyncio.get_running_loop().call_later(self.START_S, self._add)
            del self._replicas[wanted:]
            target = wanted


def simulate(rates: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Run the simulation. For each change of the target, return the time in seconds and the new number of replicas."""
    simulation = Simulation()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        monkeypatch.setattr(autoscaling_policy, "time", SimpleNamespace(time=runner.get_loop().time))
        runner.run(simulation.run(rates, autoscaling_policy._apply_autoscaling_config(POLICY)))
    return simulation.targets


def test_a_step_of_load_scales_up_within_30_s_and_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine processes 40 images/s, or 32 images/s at the policy's utilisation of 80 %.

    So 120 images/s need four replicas, and 20 images/s need one replica.
    """
    targets = simulate([(20, 60), (120, 120), (20, 60)], monkeypatch)
    up = [(at_s, target) for at_s, target in targets if at_s < 180]
    assert [target for _, target in up] == sorted(target for _, target in up)
    assert up[-1][1] == 4
    assert 60 < up[-1][0] < 90
    assert [target for at_s, target in targets if at_s >= 180] == [1]


@pytest.mark.parametrize("rate", [31, 63, 66])
def test_a_constant_load_does_not_change_the_number_of_replicas(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates are close to 32 and 64 images/s, above which one more replica is needed.

    Changes in the first two minutes are allowed, because a backlog at the start may add too many replicas.
    """
    targets = simulate([(rate, 480)], monkeypatch)
    assert [at_s for at_s, _ in targets if at_s > 120] == []

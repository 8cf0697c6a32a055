"""How many Detectors a demand asks for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.serve import autoscaling_policy
from ray.serve.config import AutoscalingConfig

from scripts.benchmark.simulation import VirtualLoop
from serve_app.deployments.autoscaling import BACKLOG_S, DEMAND, TargetUtilisation
from serve_app.inference.batcher import Batcher

POLICY = TargetUtilisation(utilisation=0.8, calm=0.6, backlog_within_s=1)


def context(target: int, *demands: float, backlog_s: float = 0.0, waiting: int = 0, **config: Any) -> SimpleNamespace:
    """What Serve knows of as many replicas as it wants: their reports, and requests that wait for any of them."""
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
def test_engines_work_for_the_wanted_share_of_their_time(demands: list[float], replicas: int) -> None:
    assert POLICY(context(0, *demands)) == (replicas, {})


def test_a_target_below_what_is_calm_otherwise_is_calm_itself() -> None:
    assert (
        TargetUtilisation(utilisation=0.5)(context(2, 0.6)) == TargetUtilisation(0.5, 0.5)(context(2, 0.6)) == (2, {})
    )


@pytest.mark.parametrize(("backlog_s", "replicas"), [(0.0, 2), (0.5, 2), (2.0, 4), (6.0, 9)])
def test_a_backlog_asks_for_as_many_at_once_as_work_it_off_in_time(backlog_s: float, replicas: int) -> None:
    assert POLICY(context(1, 1.0, backlog_s=backlog_s))[0] == replicas


@pytest.mark.parametrize(("demand", "replicas"), [(3.2, 4), (2.4, 4), (1.9, 4), (1.8, 3), (1.2, 2), (0.6, 1), (0, 0)])
def test_one_is_given_up_only_where_the_others_stay_calm(demand: float, replicas: int) -> None:
    assert POLICY(context(4, demand - 1e-9))[0] == replicas


def test_before_a_replica_reported_none_is_asked_for() -> None:
    assert POLICY(context(1)) == (0, {})


def served(now_s: list[float], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[int, dict[str, Any]]]:
    """The policy as Serve applies it, with its delays, at the time of a clock."""
    monkeypatch.setattr(autoscaling_policy, "time", SimpleNamespace(time=lambda: now_s[0]))
    policy: Callable[[Any], tuple[int, dict[str, Any]]] = autoscaling_policy._apply_autoscaling_config(POLICY)
    return policy


def test_a_model_that_nobody_uses_has_no_replica_after_a_while_and_one_again_for_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    policy = served(now_s, monkeypatch)
    config = {"min_replicas": 0, "max_replicas": 4, "downscale_to_zero_delay_s": 600}
    idle = context(1, 0.0, **config)
    for now_s[0], replicas in ((0, 1), (599, 1), (600, 0)):
        replicas_then, idle.policy_state = policy(idle)
        assert replicas_then == replicas
    assert policy(context(0, **config))[0] == 0
    assert policy(context(0, waiting=1, **config))[0] == 1


class Site:
    """Detectors with an engine that sleeps, Serve's autoscaler, and pictures that come at random. In virtual time."""

    BATCH_S, MAX_BATCH_SIZE = 0.2, 8
    START_S = 5.0  # of a replica
    LOOK_PERIOD_S = 0.3  # of Serve's controller
    REPORT_PERIOD_S, REPORTS = 1.2, 5  # that the mean is of

    def __init__(self) -> None:
        self.targets: list[tuple[float, int]] = []  # whenever it changed
        self._replicas: list[tuple[Batcher[int, int], list[tuple[float, float]]]] = []

    async def run(self, rates: list[tuple[float, float]], policy: Callable[[Any], Any]) -> None:
        """Pictures a second, each for so long."""
        self._add()
        parts = [asyncio.create_task(part) for part in (self._scale(policy), self._report())]
        asking = []
        for rate, duration_s in rates:
            turn, ends_s = random.Random(rate), self._now_s() + duration_s
            while self._now_s() < ends_s:
                await asyncio.sleep(turn.expovariate(rate))
                batcher, _ = min(self._replicas, key=lambda replica: (replica[0].load, turn.random()))
                asking.append(asyncio.create_task(batcher.submit(0, time_left_s=60)))
        await asyncio.gather(*asking)
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
            await asyncio.sleep(self.REPORT_PERIOD_S)
            for batcher, reports in self._replicas:
                reports.append((batcher.take_demand(), batcher.backlog_s))

    async def _scale(self, policy: Callable[[Any], Any]) -> None:
        target = 1
        state: dict[str, Any] = {}
        while True:
            await asyncio.sleep(self.LOOK_PERIOD_S)
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
    """When the number of replicas that is wanted changed, and to what."""
    site = Site()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        monkeypatch.setattr(autoscaling_policy, "time", SimpleNamespace(time=runner.get_loop().time))
        runner.run(site.run(rates, autoscaling_policy._apply_autoscaling_config(POLICY)))
    return site.targets


def test_a_step_of_load_scales_up_within_half_a_minute_and_down_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 pictures a second are three quarters of what four engines do, 20 are half of one."""
    targets = simulate([(20, 60), (120, 120), (20, 60)], monkeypatch)
    up = [(at_s, target) for at_s, target in targets if at_s < 180]
    assert [target for _, target in up] == sorted(target for _, target in up)
    assert up[-1][1] == 4
    assert 60 < up[-1][0] < 90
    assert [target for at_s, target in targets if at_s >= 180] == [1]


@pytest.mark.parametrize("rate", [31, 63, 66])
def test_a_constant_load_does_not_flap(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However near it is to where one replica more is wanted (32, 64). At the start a backlog may ask for too many."""
    targets = simulate([(rate, 480)], monkeypatch)
    assert [at_s for at_s, _ in targets if at_s > 120] == []

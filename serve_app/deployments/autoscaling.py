"""The autoscaling policy for Detector replicas. Configs name it in ``autoscaling_config.policy``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.errors import ConfigError
from serve_app.inference.batcher import Batcher

# The names of the figures that each Detector replica reports.
DEMAND = "demand"  # see ``Batcher.take_demand``
BACKLOG_S = "backlog_s"  # see ``Batcher.backlog_s``
DEMAND_WITHOUT_JOBS = "demand_without_jobs"
BACKLOG_WITHOUT_JOBS_S = "backlog_without_jobs_s"
JOB_SHARE = "job_share"  # see ``JobArgs.scaling_share``; it is the same for all replicas


def figures(batcher: Batcher[Any, Any], job_share: float) -> dict[str, float]:
    """Return the figures that a Detector replica reports."""
    demand = batcher.take_demand()
    total = sum(demand.values())
    return {
        DEMAND: total,
        BACKLOG_S: batcher.backlog_s,
        DEMAND_WITHOUT_JOBS: total - demand.get("job", 0.0),
        BACKLOG_WITHOUT_JOBS_S: batcher.backlog_without_jobs_s,
        JOB_SHARE: job_share,
    }


class TargetUtilisation:
    """A policy that keeps each engine busy for the share of the time that ``utilisation`` sets: 0.8 means 80 %.

    If there is a backlog, the policy adds enough replicas to process it within ``backlog_within_s`` seconds. It removes
    a replica only if the remaining replicas would then be busy for at most the share of the time that ``calm`` sets.
    Without this margin, small fluctuations of a steady load would keep adding and removing a replica.

    Jobs can raise the number of replicas to one, or up to a share of ``max_replicas``, which ``JobArgs.scaling_share``
    sets.

    The policy ignores the number of requests in flight, because each stream always has one frame in flight, whether it
    is served quickly or slowly.
    """

    def __init__(self, utilisation: float = 0.8, calm: float | None = None, backlog_within_s: float = 1.0) -> None:
        """Raise ConfigError if an argument is invalid. The default of ``calm`` is ``min(0.6, utilisation)``."""
        calm = min(0.6, utilisation) if calm is None and isinstance(utilisation, int | float) else calm
        numbers = (utilisation, calm, backlog_within_s)
        if not all(isinstance(number, int | float) for number in numbers) or not (
            0 < calm <= utilisation <= 1 and 0 < backlog_within_s < math.inf
        ):
            raise ConfigError("policy_kwargs: must satisfy 0 < calm <= utilisation <= 1 and backlog_within_s > 0")
        self._utilisation = utilisation
        self._calm = calm
        self._backlog_within_s = backlog_within_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the wanted number of replicas and an empty state. Serve applies ``min_replicas`` and ``max_replicas``.

        A deployment with zero replicas reports no figures, so this method returns zero. Serve itself starts a replica
        when a request waits.
        """
        reports = context.aggregated_metrics or {}
        wanted = self._wanted(reports, DEMAND, BACKLOG_S, context.target_num_replicas)
        if not (shares := reports.get(JOB_SHARE)):
            return wanted, {}
        without_jobs = self._wanted(reports, DEMAND_WITHOUT_JOBS, BACKLOG_WITHOUT_JOBS_S, context.target_num_replicas)
        most_for_jobs = max(1, math.ceil(max(shares.values()) * context.config.max_replicas))
        return max(without_jobs, min(wanted, most_for_jobs)), {}

    def _wanted(self, reports: Mapping[str, Mapping[Any, float]], demand: str, backlog_s: str, target: int) -> int:
        needed_time, waiting_s = (sum(reports.get(name, {}).values()) for name in (demand, backlog_s))
        needed_time += waiting_s / self._backlog_within_s
        needed = math.ceil(needed_time / self._utilisation)
        needed_when_calm = math.ceil(needed_time / self._calm)
        return max(needed, min(needed_when_calm, target))

"""The policy that sets the number of Detector replicas: ``policy`` in a config's ``autoscaling_config``."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.errors import ConfigError

# Each Detector replica reports these two figures.
DEMAND = "demand"  # see ``Batcher.take_demand``
BACKLOG_S = "backlog_s"  # see ``Batcher.backlog_s``


class TargetUtilisation:
    """A policy that keeps each engine busy ``utilisation`` of the time and clears a backlog in ``backlog_within_s``.

    The policy does not use the number of requests in flight, because a stream always has one frame in flight, however
    well or badly it is served.

    A replica is removed only if the remaining ones would be busy for no more than ``calm`` of the time. Without this
    margin, noise around a constant load would keep adding and removing a replica.
    """

    def __init__(self, utilisation: float = 0.8, calm: float | None = None, backlog_within_s: float = 1.0) -> None:
        """Use 0.6 for ``calm`` by default, or ``utilisation`` if that is less. Raise ConfigError for wrong values."""
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
        """Return the wanted number of replicas, which Serve limits to ``min_replicas`` … ``max_replicas``.

        At zero replicas nothing is reported, so this returns zero: Serve itself starts a replica for a waiting request.
        """
        reports = context.aggregated_metrics or {}
        demand, backlog_s = (sum(reports.get(name, {}).values()) for name in (DEMAND, BACKLOG_S))
        demand += backlog_s / self._backlog_within_s
        needed = math.ceil(demand / self._utilisation)
        needed_when_calm = math.ceil(demand / self._calm)
        return max(needed, min(needed_when_calm, context.target_num_replicas)), {}

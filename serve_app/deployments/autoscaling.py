"""How many Detectors the demand asks for: the ``policy`` in a config's ``autoscaling_config``."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.errors import ConfigError

DEMAND = "demand"  # what a Detector reports: see ``Batcher.take_demand``,
BACKLOG_S = "backlog_s"  # and ``Batcher.backlog_s``


class TargetUtilisation:
    """As many replicas that each engine works for this share of the time, and a backlog is gone within a while.

    Requests under way would not tell: a stream has one frame under way, whether it is served well or starves.

    One is given up only where the others would then work for a smaller share, ``calm``: a load that is constant but for
    noise is on one side of the target or the other, and the number of replicas would follow it.
    """

    def __init__(self, utilisation: float = 0.8, calm: float | None = None, backlog_within_s: float = 1.0) -> None:
        """``calm``: 0.6, or ``utilisation`` where that is less. Raises ConfigError."""
        calm = min(0.6, utilisation) if calm is None and isinstance(utilisation, int | float) else calm
        numbers = (utilisation, calm, backlog_within_s)
        if not all(isinstance(number, int | float) for number in numbers) or not (
            0 < calm <= utilisation <= 1 and 0 < backlog_within_s < math.inf
        ):
            raise ConfigError("policy_kwargs: 0 < calm <= utilisation <= 1, and backlog_within_s is above 0")
        self._utilisation = utilisation
        self._calm = calm
        self._backlog_within_s = backlog_within_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number wanted, which Serve keeps between ``min_replicas`` and ``max_replicas``.

        Where there are none, none is wanted: Serve itself starts one for a request that waits.
        """
        reports = context.aggregated_metrics or {}
        demand, backlog_s = (sum(reports.get(name, {}).values()) for name in (DEMAND, BACKLOG_S))
        demand += backlog_s / self._backlog_within_s
        enough = math.ceil(demand / self._utilisation)
        calm = math.ceil(demand / self._calm)
        return max(enough, min(calm, context.target_num_replicas)), {}

"""How many Detectors the demand asks for: the ``policy`` in a config's ``autoscaling_config``."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingContext

DEMAND = "demand"  # what a Detector reports: see ``Batcher.take_demand``


class TargetUtilisation:
    """As many replicas that each engine works for this share of the time.

    Requests under way would not tell: a stream has one frame under way, whether it is served well or starves.
    """

    def __init__(self, utilisation: float = 0.8) -> None:
        self._utilisation = utilisation

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number wanted, which Serve keeps between ``min_replicas`` and ``max_replicas``."""
        demand = sum((context.aggregated_metrics or {}).get(DEMAND, {}).values())
        return math.ceil(demand / self._utilisation), {}

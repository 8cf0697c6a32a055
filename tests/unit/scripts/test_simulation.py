"""Tests of the batcher under overload, in simulated time."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.benchmark.simulation import OVERLOAD, SenderGroup, simulate

BATCH_S = 0.2


def test_under_overload_a_client_waits_for_at_most_one_batch() -> None:
    seen = simulate(OVERLOAD, batch_s=BATCH_S, max_batch_size=8, duration_s=120)
    assert len(seen["clients"].queue_s) > 500
    assert np.percentile(seen["clients"].queue_s, 99) <= BATCH_S * 1.01
    assert len(seen["job"].queue_s) > 100  # the job must not starve


def test_streams_have_equal_shares() -> None:
    seen = simulate(OVERLOAD, batch_s=BATCH_S, max_batch_size=8, duration_s=120)
    processed = [len(waits.queue_s) for name, waits in seen.items() if name.startswith("stream")]
    assert len(processed) == 16
    assert max(processed) - min(processed) <= 2


@pytest.mark.parametrize("senders", [8, 400])
def test_a_greedy_tenant_leaves_the_others_their_share(senders: int) -> None:
    """Each of five tenants gets a fifth of 40 images/s, whether or not the greedy tenant fills the queue."""
    modest = [SenderGroup("interactive", f"modest {number}", senders=8) for number in range(4)]
    seen = simulate(
        [*modest, SenderGroup("interactive", "greedy", senders=senders)],
        batch_s=BATCH_S,
        max_batch_size=8,
        duration_s=60,
    )
    for number in range(4):
        assert len(seen[f"modest {number}"].queue_s) / 60 == pytest.approx(8, rel=0.1)

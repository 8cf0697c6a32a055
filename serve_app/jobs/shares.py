"""The fair shares of the runners: between owners equally, and between the jobs of an owner by their weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from serve_app.jobs.active import ActiveJob


class _Share:
    """What one owner has got so far."""

    def __init__(self) -> None:
        self.served = 0.0  # items
        self.now = 0.0  # what the owner's last chosen job had got, by its weight


class Shares:
    """Chooses the job whose unit is next: start-time fair queueing, on two levels.

    A job or an owner without work gathers no claim to more than its share later.
    """

    def __init__(self) -> None:
        self._owners: defaultdict[str | None, _Share] = defaultdict(_Share)
        self._now = 0.0  # what the last chosen owner had got

    def choose(self, works: Sequence[ActiveJob]) -> ActiveJob:
        """Return one of these jobs, each of which has work to do."""
        owners = {work.job.owner: self._owners[work.job.owner] for work in works}
        for share in owners.values():
            share.served = max(share.served, self._now)
        owner = min(owners, key=lambda name: owners[name].served)
        share = owners[owner]
        self._now = share.served
        own = [work for work in works if work.job.owner == owner]
        for work in own:
            work.served = max(work.served, share.now)
        chosen = min(own, key=lambda work: work.served)
        share.now = chosen.served
        return chosen

    def charge(self, work: ActiveJob, items: int) -> None:
        """Count items of a job that a runner has got."""
        work.served += items / work.job.spec.weight
        self._owners[work.job.owner].served += items

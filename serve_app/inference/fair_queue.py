"""The queue for the engine: weighted fair queueing between kinds of traffic, and round robin between their tenants.

Between kinds of traffic, the queue uses start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Every item has
the same cost. Each kind has a virtual start time. The kind with the earliest start time is served next, and each served
item advances that time by 1 / weight. A kind that was idle continues at the current virtual time, so it gains no credit
while idle. This module needs neither a clock nor an event loop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from serve_app.errors import Overloaded
from serve_app.types import Traffic

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A queue for up to ``max_size`` items of each kind of traffic in ``weights``.

    ``is_wanted`` returns whether an item should still be served. Unwanted items are removed without being counted as
    served. ``is_wanted`` may count the items that it rejects, because it is called only once for each of them.
    """

    def __init__(
        self, weights: Mapping[Traffic, float], max_size: int, is_wanted: Callable[[Item], bool] = lambda _: True
    ) -> None:
        self._kinds = {traffic: _TenantQueues[Item](weight) for traffic, weight in weights.items()}
        self._max_size = max_size
        self._is_wanted = is_wanted
        self._now = 0.0  # virtual time: the start time of the last served item

    def __len__(self) -> int:
        return sum(kind.size for kind in self._kinds.values())

    def set_weights(self, weights: Mapping[Traffic, float]) -> None:
        """Change the weights of the kinds of traffic from now on."""
        for traffic, weight in weights.items():
            self._kinds[traffic].weight = weight

    def sizes(self) -> dict[Traffic, int]:
        """Return the number of waiting items by kind of traffic."""
        return {traffic: kind.size for traffic, kind in self._kinds.items()}

    def put(self, item: Item, traffic: Traffic, tenant: str) -> Item | None:
        """Queue an item. Return the item that the new item displaced, or None if the queue was not full.

        If the queue of this kind of traffic is full, the new item displaces the newest item of the tenant with the most
        items. That tenant must have at least two items more than ``tenant``. Otherwise, raise Overloaded.
        """
        kind = self._kinds[traffic]
        if kind.size >= self._max_size:
            kind.prune(self._is_wanted)
        displaced = kind.displace(tenant) if kind.size >= self._max_size else None
        if kind.size >= self._max_size:
            raise Overloaded(
                f"batcher.max_queue_size: {self._max_size} images wait for the engine, so the queue is full; retry "
                "later or raise the limit",
                limit="batcher.max_queue_size",
            )
        if not kind.size:
            kind.virtual_start = max(kind.virtual_start, self._now)
        kind.put(item, tenant)
        return displaced

    def take(self) -> Item | None:
        """Remove and return the next wanted item, or return None if there is none."""
        while waiting := [kind for kind in self._kinds.values() if kind.size]:
            kind = min(waiting, key=lambda kind: kind.virtual_start)
            item = kind.take(self._is_wanted)
            if item is not None:
                self._now = kind.virtual_start
                kind.virtual_start += 1 / kind.weight
                return item
        return None

    def drain(self) -> Iterator[Item]:
        """Remove and yield every item."""
        for kind in self._kinds.values():
            yield from kind.drain()


class _TenantQueues(Generic[Item]):
    """The queues of one kind of traffic, one for each tenant, served round robin."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.virtual_start = 0.0
        self.size = 0
        # Only tenants with waiting items are in this dictionary, and the first tenant is served next.
        self._tenants: OrderedDict[str, deque[Item]] = OrderedDict()

    def put(self, item: Item, tenant: str) -> None:
        self._tenants.setdefault(tenant, deque()).append(item)
        self.size += 1

    def take(self, is_wanted: Callable[[Item], bool]) -> Item | None:
        while self._tenants:
            tenant, queue = self._tenants.popitem(last=False)
            while queue:
                item = queue.popleft()
                self.size -= 1
                if is_wanted(item):
                    if queue:
                        self._tenants[tenant] = queue  # the tenant is now last
                    return item
        return None

    def displace(self, tenant: str) -> Item | None:
        """Remove and return the newest item of the tenant with the most items.

        That tenant must have at least two items more than ``tenant``. Otherwise, remove nothing and return None.
        """
        longest = max(self._tenants.values(), key=len)
        if len(longest) <= len(self._tenants.get(tenant, ())) + 1:
            return None
        self.size -= 1
        return longest.pop()

    def prune(self, is_wanted: Callable[[Item], bool]) -> None:
        """Remove the items that are no longer wanted."""
        for tenant, queue in list(self._tenants.items()):
            kept = deque(item for item in queue if is_wanted(item))
            self.size -= len(queue) - len(kept)
            if kept:
                self._tenants[tenant] = kept
            else:
                del self._tenants[tenant]

    def drain(self) -> Iterator[Item]:
        while self._tenants:
            _, queue = self._tenants.popitem(last=False)
            self.size -= len(queue)
            yield from queue

"""What waits for the engine: weighted fair between kinds of traffic, in turns between the tenants of one kind.

Between kinds it is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) of items that cost the same: each
kind has a virtual start time that a served item moves on by 1 / weight, the earliest is served, and a kind that was
idle starts at the present, so that idling saves up nothing. Inside a kind, tenants take turns. Plain data: no clock, no
loop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from serve_app.errors import Overloaded
from serve_app.types import Traffic

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Holds up to ``max_size`` items of each kind of traffic in ``weights``.

    ``is_wanted`` says whether an item is still worth its turn. One that is not is left out, and costs no turn; it is
    asked about once.
    """

    def __init__(
        self, weights: Mapping[Traffic, float], max_size: int, is_wanted: Callable[[Item], bool] = lambda _: True
    ) -> None:
        self._kinds = {traffic: _TenantQueues[Item](weight) for traffic, weight in weights.items()}
        self._max_size = max_size
        self._is_wanted = is_wanted
        self._now = 0.0  # virtual time: the start of the item that was served last

    def __len__(self) -> int:
        return sum(kind.size for kind in self._kinds.values())

    def set_weights(self, weights: Mapping[Traffic, float]) -> None:
        """Other weights from now on, of the same kinds."""
        for traffic, weight in weights.items():
            self._kinds[traffic].weight = weight

    def sizes(self) -> dict[Traffic, int]:
        """Waiting items by kind of traffic."""
        return {traffic: kind.size for traffic, kind in self._kinds.items()}

    def put(self, item: Item, traffic: Traffic, tenant: str) -> Item | None:
        """Queues the item. What had to make room for it: the newest item of a tenant who has more than this one.

        Raises Overloaded when the kind's queue is full and nobody in it has more.
        """
        kind = self._kinds[traffic]
        if kind.size >= self._max_size:
            kind.prune(self._is_wanted)
        displaced = kind.displace(tenant) if kind.size >= self._max_size else None
        if kind.size >= self._max_size:
            raise Overloaded(
                f"batcher.max_queue_size: {self._max_size} pictures wait for the engine, which is the limit; retry "
                "later or raise it",
                limit="batcher.max_queue_size",
            )
        if not kind.size:
            kind.start = max(kind.start, self._now)
        kind.put(item, tenant)
        return displaced

    def take(self) -> Item | None:
        """The item whose turn it is; None when nothing is wanted any more."""
        while waiting := [kind for kind in self._kinds.values() if kind.size]:
            kind = min(waiting, key=lambda kind: kind.start)
            item = kind.take(self._is_wanted)
            if item is not None:
                self._now = kind.start
                kind.start += 1 / kind.weight
                return item
        return None

    def drain(self) -> Iterator[Item]:
        """Every item, taken out."""
        for kind in self._kinds.values():
            yield from kind.drain()


class _TenantQueues(Generic[Item]):
    """One kind of traffic: a queue a tenant, taken from in turns."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.start = 0.0
        self.size = 0
        self._tenants: OrderedDict[str, deque[Item]] = OrderedDict()  # only those who wait; the next one is first

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
                        self._tenants[tenant] = queue  # at the end: the others come first
                    return item
        return None

    def displace(self, tenant: str) -> Item | None:
        """Takes the newest item of whoever has most out, if that is more than the tenant would have with one more."""
        longest = max(self._tenants.values(), key=len)
        if len(longest) <= len(self._tenants.get(tenant, ())) + 1:
            return None
        self.size -= 1
        return longest.pop()

    def prune(self, is_wanted: Callable[[Item], bool]) -> None:
        """Takes out what nobody waits for."""
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

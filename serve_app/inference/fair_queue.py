"""The queue for the engine: fair queueing between kinds of traffic by weight, and between the tenants of each kind.

At both levels, the queue uses start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each item has a cost,
which is the engine time that it takes. Each kind, and each tenant of a kind, has a virtual start time. The one with the
earliest start time is served next, and each served item advances that time by its cost, divided by the kind's weight.
One that was idle continues at the current virtual time, so it gains no credit while idle.

Each item also has a shape, and ``take_like`` takes the next item of one shape. Thus some items are served before their
turn. Their kind and their tenant have then paid for them, and wait longer for their next turn. How far they may be
ahead of their turn is limited. Otherwise, a tenant whose shape others often have would get more than its share. Those
that were passed over keep their start times, so the first of them is next. This module needs neither a clock nor an
event loop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
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
        self._kinds = {traffic: _Kind[Item](weight) for traffic, weight in weights.items()}
        self._max_size = max_size
        self._is_wanted = is_wanted
        self._last_start = 0.0  # the virtual start time of the kind that was served last

    def __len__(self) -> int:
        return sum(kind.size for kind in self._kinds.values())

    def set_weights(self, weights: Mapping[Traffic, float]) -> None:
        """Change the weights of the kinds of traffic from now on."""
        for traffic, weight in weights.items():
            self._kinds[traffic].weight = weight

    def sizes(self) -> dict[Traffic, int]:
        """Return the number of waiting items by kind of traffic."""
        return {traffic: kind.size for traffic, kind in self._kinds.items()}

    def costs(self) -> dict[Traffic, float]:
        """Return the sum of the waiting items' costs by kind of traffic."""
        return {traffic: kind.cost for traffic, kind in self._kinds.items()}

    def put(
        self, item: Item, traffic: Traffic, tenant: str, *, shape: Hashable = None, cost: float = 1.0
    ) -> Item | None:
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
            # The current virtual time is the start time of the last served item, or an earlier one that still waits.
            starts = (other.virtual_start for other in self._kinds.values() if other.size)
            kind.virtual_start = max(kind.virtual_start, min([self._last_start, *starts]))
        kind.put(item, tenant, shape, cost)
        return displaced

    def take(self) -> Item | None:
        """Remove and return the next wanted item, or return None if there is none."""
        return self._take(lambda kind: kind.next())

    def take_like(self, shape: Hashable, max_lead: float) -> Item | None:
        """Remove and return the next wanted item of this shape, or return None if there is none.

        Items of a kind or a tenant that is ahead of its turn by more than ``max_lead`` are left in the queue. This is a
        cost, for a kind of the weight 1.
        """
        now = min((kind.virtual_start for kind in self._kinds.values() if kind.size), default=0.0)
        return self._take(
            lambda kind: kind.next_like(shape, max_lead) if kind.virtual_start <= now + max_lead / kind.weight else None
        )

    def drain(self) -> Iterator[Item]:
        """Remove and yield every item."""
        for kind in self._kinds.values():
            yield from kind.drain()

    def _take(self, line_of: Callable[[_Kind[Item]], _Line[Item] | None]) -> Item | None:
        while True:
            chosen: tuple[_Kind[Item], _Line[Item]] | None = None
            for kind in self._kinds.values():
                is_earlier = kind.size and (chosen is None or kind.virtual_start < chosen[0].virtual_start)
                if is_earlier and (line := line_of(kind)) is not None:
                    chosen = kind, line
            if chosen is None:
                return None
            kind, line = chosen
            _, cost, item = line.items[0]
            if is_wanted := self._is_wanted(item):
                self._last_start = kind.virtual_start
                kind.virtual_start += cost / kind.weight
                kind.last_start = line.tenant.virtual_start
                line.tenant.virtual_start += cost
            kind.pop(line)
            if is_wanted:
                return item


@dataclass(eq=False, slots=True)
class _Tenant(Generic[Item]):
    name: str
    virtual_start: float
    size: int = 0
    lines: dict[Hashable, _Line[Item]] = field(default_factory=dict)  # by shape


@dataclass(eq=False, slots=True)
class _Line(Generic[Item]):
    """The items of one tenant and one shape, in the order of their arrival."""

    tenant: _Tenant[Item]
    shape: Hashable
    items: deque[tuple[int, float, Item]] = field(default_factory=deque)  # (number, cost, item)


class _Kind(Generic[Item]):
    """The items of one kind of traffic."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.virtual_start = 0.0
        self.last_start = 0.0  # the virtual start time of the tenant that was served last
        self.size = 0
        self.cost = 0.0
        self._arrivals = 0  # the number of the last item
        self._tenants: dict[str, _Tenant[Item]] = {}  # only those that have items
        # The start times of the other tenants. A tenant that comes back continues at its start time. Otherwise,
        # a tenant that sends one item at a time would never wait for its turn.
        self._idle: OrderedDict[str, float] = OrderedDict()
        # The lines of each shape, as a heap of (tenant's start time, number of the line's first item, line). Both
        # numbers of a line only grow, so we correct an outdated entry when it becomes the first of its heap. A line
        # without items is then removed, because its tenant no longer uses it.
        self._heaps: dict[Hashable, list[tuple[float, int, _Line[Item]]]] = {}

    def put(self, item: Item, name: str, shape: Hashable, cost: float) -> None:
        tenant = self._tenants.get(name)
        if tenant is None:
            earliest = self.next()
            # This is the current virtual time, as in ``FairQueue.put``.
            now = min(self.last_start, earliest.tenant.virtual_start) if earliest is not None else 0.0
            tenant = self._tenants[name] = _Tenant(name, max(self._idle.pop(name, 0.0), now))
            while self._idle and next(iter(self._idle.values())) <= now:
                self._idle.popitem(last=False)  # this tenant would start at ``now``, as an unknown tenant does
        self._arrivals += 1
        line = tenant.lines.get(shape)
        if line is None:
            line = tenant.lines[shape] = _Line(tenant, shape)
            heappush(self._heaps.setdefault(shape, []), (tenant.virtual_start, self._arrivals, line))
        line.items.append((self._arrivals, cost, item))
        tenant.size += 1
        self.size += 1
        self.cost += cost

    def next(self) -> _Line[Item] | None:
        """Return the line whose first item is the next in the fair order, or None if there are no items."""
        firsts = [first for shape in self._heaps if (first := self._first(shape)) is not None]
        return min(firsts)[-1] if firsts else None

    def next_like(self, shape: Hashable, max_lead: float) -> _Line[Item] | None:
        """Return the line whose first item is the next of this shape, or None if there is none within ``max_lead``."""
        first, earliest = self._first(shape), self.next()
        if first is None or earliest is None or first[0] > earliest.tenant.virtual_start + max_lead:
            return None
        return first[-1]

    def pop(self, line: _Line[Item]) -> Item:
        """Remove and return the first item of the line."""
        _, cost, item = line.items.popleft()
        self._removed(line, 1, cost)
        return item

    def displace(self, name: str) -> Item | None:
        """Remove and return the newest item of the tenant with the most items.

        That tenant must have at least two items more than the tenant ``name``. Otherwise, remove nothing and return
        None.
        """
        longest = max(self._tenants.values(), key=lambda tenant: tenant.size)
        size = self._tenants[name].size if name in self._tenants else 0
        if longest.size <= size + 1:
            return None
        newest = max(longest.lines.values(), key=lambda line: line.items[-1][0])
        _, cost, item = newest.items.pop()
        self._removed(newest, 1, cost)
        return item

    def prune(self, is_wanted: Callable[[Item], bool]) -> None:
        """Remove the items that are no longer wanted."""
        for line in [line for tenant in self._tenants.values() for line in tenant.lines.values()]:
            kept = deque(entry for entry in line.items if is_wanted(entry[2]))
            if count := len(line.items) - len(kept):
                cost = sum(entry[1] for entry in line.items) - sum(entry[1] for entry in kept)
                line.items = kept
                self._removed(line, count, cost)

    def drain(self) -> Iterator[Item]:
        while (line := self.next()) is not None:
            yield self.pop(line)

    def _first(self, shape: Hashable) -> tuple[float, int, _Line[Item]] | None:
        """Return the first entry of a heap, after outdated entries are corrected or removed."""
        heap = self._heaps.get(shape)
        while heap:
            first = start, number, line = heap[0]
            if not line.items:
                heappop(heap)
            elif line.items[0][0] == number and line.tenant.virtual_start == start:
                return first
            else:
                heapreplace(heap, (line.tenant.virtual_start, line.items[0][0], line))
        return None

    def _removed(self, line: _Line[Item], count: int, cost: float) -> None:
        tenant = line.tenant
        tenant.size -= count
        self.size -= count
        self.cost -= cost
        if not line.items:
            del tenant.lines[line.shape]
        if not tenant.size:
            del self._tenants[tenant.name]
            self._idle[tenant.name] = tenant.virtual_start
        if not self.size:  # nobody waits, so the past no longer matters
            self.last_start = 0.0
            self._idle.clear()
            self._heaps.clear()
            self.cost = 0.0  # without rounding errors

"""How often items could not be read, because their source did not answer."""

from __future__ import annotations

_MAX_ITEMS = 65_536


class Tries:
    """The numbers of failed tries of items that are deferred between two tries.

    A unit's ``attempt`` cannot be used, because it also counts restarts, and deferrals for other reasons.
    These numbers are in the memory of this process only. After a restart, items may be tried more often.
    """

    def __init__(self) -> None:
        self._tries: dict[tuple[str, int], tuple[int, int]] = {}  # by job and item: tries, and the unit's last attempt

    def count_failure(self, job_id: str, item: int, attempt: int) -> int:
        """Count a failed try in this attempt of the item's unit. Return how many there were."""
        tries, last_attempt = self._tries.pop((job_id, item), (0, 0))
        if attempt <= last_attempt:  # another job with this id, whose attempts begin again
            tries = 0
        self._tries[job_id, item] = tries + 1, attempt
        if len(self._tries) > _MAX_ITEMS:
            self._tries.pop(next(iter(self._tries)))  # the oldest one
        return tries + 1

    def forget(self, job_id: str, item: int) -> None:
        """Forget an item that was read, or is not tried again."""
        self._tries.pop((job_id, item), None)

"""What a runner has done of a unit so far."""

from __future__ import annotations

from collections import Counter

from serve_app.errors import (
    DeadlineExceeded,
    NoSpace,
    Overloaded,
    ServeAppError,
    SourceError,
    SourceGone,
    StartError,
    Unavailable,
)
from serve_app.jobs.outputs import OutputUnwritable
from serve_app.jobs.units import Deferred, Failed, Item, Unit, UnitResult
from serve_app.schemas.detect import answer_fields
from serve_app.schemas.jobs import JobResult
from serve_app.types import Answer, ModelInfo

# These errors are not the item's fault, so the item is tried again later: in the first case soon, because other units
# have had their turn meanwhile.
_RETRY_AFTER_S: dict[type[ServeAppError], float] = {
    DeadlineExceeded: 0.5,
    Overloaded: 2.0,
    Unavailable: 2.0,
    NoSpace: 10.0,
    StartError: 10.0,
}


class Tally:
    """The results and errors of a unit's items. Each item is noted once."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.clear()

    def clear(self) -> None:
        """Forget all that was noted, because the unit is begun again."""
        self._results: dict[int, str] = {}
        self._failed: dict[int, Failed] = {}
        self._deferred: set[int] = set()
        self._is_clip_deferred = False
        self._reason: ServeAppError | None = None  # why items were deferred first
        self._pause_s = 0.0  # before they are tried again
        self._detections: Counter[str] = Counter()
        self._models: Counter[str] = Counter()

    def add(self, number: int, item: Item, answer: Answer, model: ModelInfo, time_s: float | None = None) -> None:
        """Note an item's detections. ``time_s`` is the frame's time in its video."""
        name = f"{answer.model}@{model.version}"
        fields = answer_fields(answer) | {"model": name}
        result = JobResult(
            job_id=self._unit.job_id, item=number, name=item.name, id=item.id or None, time_s=time_s, **fields
        )
        self._results[number] = result.model_dump_json(exclude_none=True)
        self._detections.update(answer.detections.counted_labels)
        self._models[name] += 1

    def note_error(self, number: int, item: Item, error: ServeAppError) -> None:
        """Note an item's error. The item is deferred if the error is not its own fault.

        Raise OutputUnwritable again, because it concerns the whole job.
        """
        if isinstance(error, OutputUnwritable):
            raise error
        if _retry_after_s(error) is None:
            self._failed[number] = Failed(number, item.name, error.code, error.detail, item.id)
        else:
            self._deferred.add(number)
            self._pause_for(error)

    def defer_rest(self, error: ServeAppError) -> None:
        """Note that all items without a result are deferred. A clip is deferred as a whole."""
        if self._unit.clip is not None:
            self.clear()
            self._is_clip_deferred = True
        else:
            known = self._results.keys() | self._failed.keys()
            self._deferred |= {number for number, _ in self._unit.wanted()} - known
        self._pause_for(error)

    def note_error_of_rest(self, error: ServeAppError) -> None:
        """Note the error of all items without a result. A clip whose frames are not known counts as one item."""
        unit = self._unit
        if unit.clip is not None:
            self.clear()
            for number in (unit.first,) if unit.todo is None else unit.todo:
                self.note_error(number, Item(unit.clip.name), error)
            return
        known = self._results.keys() | self._failed.keys() | self._deferred
        for number, item in unit.wanted():
            if number not in known:
                self.note_error(number, item, error)

    def result(self) -> UnitResult:
        """Return what has been done."""
        return UnitResult(
            job_id=self._unit.job_id,
            number=self._unit.number,
            attempt=self._unit.attempt,
            results=tuple(sorted(self._results.items())),
            failed=tuple(self._failed[number] for number in sorted(self._failed)),
            deferred=self._as_deferred(),
            detections=dict(sorted(self._detections.items())),
            models=dict(sorted(self._models.items())),
        )

    def _as_deferred(self) -> Deferred | None:
        if self._reason is None:
            return None
        items = None if self._is_clip_deferred else tuple(sorted(self._deferred))
        return Deferred(items, self._reason.code, self._reason.detail, self._pause_s)

    def _pause_for(self, error: ServeAppError) -> None:
        self._reason = self._reason or error
        self._pause_s = max(self._pause_s, _retry_after_s(error) or _RETRY_AFTER_S[StartError])


def is_temporary(error: ServeAppError) -> bool:
    """Return whether the error is not an item's fault, so that the item may succeed later."""
    return _retry_after_s(error) is not None


def _retry_after_s(error: ServeAppError) -> float | None:
    if isinstance(error, SourceError) and not isinstance(error, SourceGone):
        return None  # a damaged video, for example
    pauses_s = (pause_s for kind, pause_s in _RETRY_AFTER_S.items() if isinstance(error, kind))
    pause_s = next(pauses_s, None)
    return None if pause_s is None else max(pause_s, error.retry_after_s or 0)

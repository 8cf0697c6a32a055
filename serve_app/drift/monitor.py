"""The monitor, which collects the reports of all processes and watches every source of every model.

This module does not depend on Ray, and it blocks. Calls may come from one thread at a time.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.config import DriftArgs
from serve_app.drift.bins import BINS
from serve_app.drift.notices import Notice
from serve_app.drift.packing import pack, unpack
from serve_app.drift.reference import HOURS, Reference
from serve_app.drift.store import DriftStore, HourKey
from serve_app.drift.tally import OTHER, STREAM, MinuteCounts, Report, Seen
from serve_app.drift.watched import Alarm, Change, Together, Watched
from serve_app.errors import InvalidParameter, NotFound

logger = logging.getLogger(__name__)

ALL = "all"
MAX_SOURCES = 512  # of all models; further sources are counted together as OTHER
_HOUR_S, _DAY_S = 3600, 86_400
_KEPT_DAYS = 35  # histograms by hour, for references of a range of time
_FORGET_AFTER_S = 35 * _DAY_S  # a source from which nothing was seen
_KEPT_MINUTES = 60
_FORGET_REPORTERS_AFTER_S = _DAY_S  # their processes have ended
_MAX_NAME = 128
_ROLL_OUT_S = 120.0  # for which images of the previous version of a model may still arrive
_FIELDS, _WINDOW, _SLOT = "fields", "window", "hour-"


class Monitor:
    """The watched sources of all models, and the counts of the last minutes.

    ``apply`` and the other changes only change the memory. ``save`` writes what has changed to the disk.
    """

    def __init__(self, store: DriftStore, args: DriftArgs) -> None:
        """Prepare to watch. Call ``load`` when the store is open."""
        self.sources: dict[tuple[str, str], Watched] = {}  # by model and source
        self.together: dict[str, Together] = {}  # by model
        self.lost = 0  # images that processes could not count
        self._store = store
        self._args = args
        self._numbers: dict[str, int] = {}  # of the last report of each reporter
        self._answers: dict[str, list[Notice]] = {}  # to the last report of each reporter
        self._hours: dict[HourKey, NDArray[np.uint32]] = {}  # the current hours
        self._minutes: dict[tuple[str, str, int], MinuteCounts] = {}
        self._dirty_sources: dict[tuple[str, str], set[str]] = {}
        self._dirty_hours: set[HourKey] = set()
        self._dirty_minutes: set[tuple[str, str, int]] = set()
        self._dirty_reporters: set[str] = set()
        self._handed_over_before: int | None = None  # the minutes before this one are still in the store
        self._dirty_together: set[str] = set()
        self._forgotten: set[tuple[str, str]] = set()
        self._erased: set[tuple[str, str]] = set()  # forgotten together with their histograms by hour
        self._owed: dict[tuple[str, str], Notice] = {}  # to the next report of a source
        self._replaced: dict[
            tuple[str, str], tuple[str, float]
        ] = {}  # the previous version, and until when it is ignored
        self._tidied_at_s = 0.0

    def load(self) -> None:
        """Read what was saved. A source that cannot be read is logged, and starts again."""
        self._numbers = self._store.reporters()
        parts: dict[tuple[str, str], dict[str, bytes]] = {}
        for model, source, part, data in self._store.parts():
            parts.setdefault((model, source), {})[part] = data
        for (model, source), data_of in parts.items() if self._args.enabled else ():
            if source == ALL:
                self._load_together(model, data_of)
                continue
            hours = {int(part.removeprefix(_SLOT)): data for part, data in data_of.items() if part.startswith(_SLOT)}
            try:
                fields, _ = unpack(data_of[_FIELDS])
                watched = Watched.restore(fields, data_of.get(_WINDOW), hours, self._args)
            except (ValueError, KeyError, TypeError, IndexError) as exc:
                logger.error("drift of %s in %s cannot be read from the store: %s", source, model, exc)
                continue
            self.sources[model, source] = watched
        for model, source, minute, data in self._store.minutes():
            images, detections = json.loads(data)
            self._minutes[model, source, minute] = MinuteCounts(model, source, minute, images, Counter(detections))

    def apply(self, report: Report, now_s: float) -> list[Notice]:
        """Take a report into account, unless it was before. Return the notices about the report's sources."""
        if report.number <= self._numbers.get(report.reporter, -1):
            return self._answers.get(report.reporter, [])
        self._numbers[report.reporter] = report.number
        self._dirty_reporters.add(report.reporter)
        self.lost += report.lost
        for counts in report.minutes:
            self._add_minute(counts)
        all_seen = report.seen if self._args.enabled else ()  # a process with the previous settings may still measure
        notices = [notice for seen in all_seen if (notice := self._add(seen, now_s))]
        owed = [self._owed.pop((seen.model, seen.source), None) for seen in all_seen]
        notices = [notice for notice in owed if notice] + notices
        self._answers[report.reporter] = notices
        return notices

    def compare_together(self, now_s: float) -> list[Notice]:
        """Compare the sum of the sources of each model. Return the notices about them. Call this every minute."""
        by_model: dict[str, list[Watched]] = {}
        for (model, _), watched in self.sources.items():
            if now_s - watched.seen_at_s < _DAY_S:
                by_model.setdefault(model, []).append(watched)
        notices = []
        for model in sorted(by_model.keys() | self.together.keys()):
            together = self.together.setdefault(model, Together())
            if change := together.compare(by_model.get(model, []), self._args, now_s):
                self._dirty_together.add(model)
                notices.append(_notice(model, ALL, change, together, now_s))
            if model not in by_model:
                del self.together[model]
        return notices

    def save(self, now_s: float) -> None:
        """Write everything that has changed to the disk, in one transaction. Raise NoSpace or Unavailable.

        After an error, the next call writes it.
        """
        is_time_to_tidy = abs(now_s - self._tidied_at_s) > _HOUR_S  # the clock may have been set back
        with self._store.transaction():
            self._store.put_reporters({name: self._numbers[name] for name in self._dirty_reporters}, now_s)
            for model, source in self._forgotten:
                self._store.forget_source(model, source)
            for model, source in self._erased:
                self._store.forget_hours_of(model, source)
            for model in self._dirty_together:
                if model in self.together:
                    self._store.put_parts(model, ALL, {_FIELDS: pack(self.together[model].alarm.fields())})
                else:
                    self._store.forget_source(model, ALL)
            for (model, source), names in self._dirty_sources.items():
                self._store.put_parts(model, source, self._pack(self.sources[model, source], names))
            self._store.put_hours((key, pack({}, self._hours[key])) for key in self._dirty_hours)
            if self._handed_over_before is not None:  # first, because counts of such a minute may arrive late
                self._store.forget_minutes(self._handed_over_before)
            self._store.put_minutes(
                (*key, json.dumps([self._minutes[key].images, self._minutes[key].detections]).encode())
                for key in self._dirty_minutes
                if key in self._minutes
            )
            if is_time_to_tidy:
                self._store.forget_reporters(now_s - _FORGET_REPORTERS_AFTER_S)
                self._store.forget_hours(int(now_s // _HOUR_S) - _KEPT_DAYS * HOURS)
                self._store.forget_minutes(int(now_s // 60) - _KEPT_MINUTES)
        for key in self._dirty_sources:
            self.sources[key].reference.changed.clear()
        self._dirty_reporters, self._dirty_minutes, self._dirty_hours = set(), set(), set()
        self._dirty_together, self._forgotten, self._erased = set(), set(), set()
        self._dirty_sources, self._handed_over_before = {}, None
        if is_time_to_tidy:
            self._tidy(now_s)

    def drifting(self) -> frozenset[str]:
        """Return the names of the sources that drift now, with any model."""
        return frozenset(source for (_, source), watched in self.sources.items() if watched.alarm.features)

    def finished_minutes(self, before: int) -> list[MinuteCounts]:
        """Return the counts of all minutes since the epoch before ``before``, in order.

        A report that arrives late adds counts to a minute that was returned before. They are then returned alone.
        """
        return [self._minutes[key] for key in sorted(self._minutes, key=lambda key: key[2]) if key[2] < before]

    def forget_minutes(self, before: int) -> None:
        """Forget the counts that ``finished_minutes`` returns. The next ``save`` deletes them from the disk."""
        self._minutes = {key: counts for key, counts in self._minutes.items() if key[2] >= before}
        self._handed_over_before = before

    def forget(self, source: str, now_s: float) -> list[Notice]:
        """Forget a source with all models, because its stream was deleted. Another stream may get the same name.

        Return the notices that this ends a drift.
        """
        keys = [key for key in self.sources if key[1] == source]
        ended = [self._end(key, now_s) for key in keys]
        for key in keys:
            self._remove(key)
            self._erased.add(key)
            self._replaced.pop(key, None)
            self._hours = {hour: counts for hour, counts in self._hours.items() if hour[:2] != key}
            self._dirty_hours = {hour for hour in self._dirty_hours if hour[:2] != key}
        return [notice for notice in ended if notice]

    def find(self, model: str, source: str) -> Watched:
        """Return a watched source. Raise NotFound if there is none with these names."""
        if (model, source) not in self.sources:
            raise NotFound(f"no image of the source {source!r} was seen with the model {model!r}")
        return self.sources[model, source]

    def set_reference_of_hours(
        self, model: str, source: str, since_s: float, until_s: float, now_s: float
    ) -> Notice | None:
        """Make the images of a range of time the reference of a source. Whole hours are used.

        Return the notice that this ends a drift, if it does. Raise NotFound if there is no such source, and
        InvalidParameter if there are too few images.
        """
        watched = self.find(model, source)
        since, until = int(since_s // _HOUR_S), -int(-until_s // _HOUR_S)
        stored = self._store.hours(model, source, watched.version, since, until)
        kept = {hour: unpack(data)[1][0] for hour, data in stored}
        for key, counts in self._hours.items():  # the current hour may not be saved yet
            if key[:3] == (model, source, watched.version) and since <= key.hour < until:
                kept[key.hour] = counts
        try:
            reference = Reference.of_blocks(kept.items(), window_images=self._args.window_images)
        except ValueError as exc:
            raise InvalidParameter(f"since_at_s: {exc}; use a longer range of time") from exc
        return self.set_reference(model, source, reference, now_s)

    def set_reference(self, model: str, source: str, reference: Reference, now_s: float) -> Notice | None:
        """Set and save the reference of a source: see ``set_reference_of_hours`` for the result and the errors.

        If the reference cannot be saved, nothing changes. Raise NoSpace or Unavailable then.
        """
        watched = self.find(model, source)
        before = copy(watched)
        watched.set_reference(reference)
        self._dirty_sources.setdefault((model, source), set()).update({_FIELDS, _WINDOW})
        try:
            self.save(now_s)
        except BaseException:
            self.sources[model, source] = before
            raise
        notice = _notice(model, source, "ended", watched, now_s) if before.alarm.features else None
        if notice:  # the stream learns it from the answer to its next report
            self._owed[model, source] = replace(notice, is_published=True)
        return notice

    def _add(self, seen: Seen, now_s: float) -> Notice | None:
        key = seen.model, seen.source[:_MAX_NAME]
        if key not in self.sources and len(self.sources) >= MAX_SOURCES:
            key = seen.model, OTHER
        watched, ended = self.sources.get(key), None
        if watched is None or watched.version != seen.version:  # a changed model begins a new reference
            version, until_s = self._replaced.get(key, ("", 0.0))
            if (
                version == seen.version and until_s - _ROLL_OUT_S <= now_s < until_s
            ):  # another process still has the previous model
                return None
            if watched is not None:
                self._replaced[key] = watched.version, now_s + _ROLL_OUT_S
                ended = self._end(key, now_s)
            watched = self.sources[key] = Watched(seen.version, self._args, by_hour=key[1].startswith(STREAM))
            self._forgotten.add(key)  # the hours of the previous reference
        self._add_hour(HourKey(*key, seen.version, seen.hour), seen.counts)
        watched.note_labels(seen.labels)
        change = watched.add(seen.hour % HOURS, seen.counts, now_s)
        self._dirty_sources.setdefault(key, set()).update({_FIELDS, _WINDOW})
        return _notice(*key, change, watched, now_s) if change else ended

    def _end(self, key: tuple[str, str], now_s: float) -> Notice | None:
        """End the drift of a source. Return the notice of this, or None if it does not drift."""
        watched = self.find(*key)
        return _notice(*key, "ended", watched, now_s) if watched.alarm.clear() else None

    def _remove(self, key: tuple[str, str]) -> None:
        del self.sources[key]
        self._forgotten.add(key)
        self._dirty_sources.pop(key, None)
        self._owed.pop(key, None)

    def _load_together(self, model: str, data_of: Mapping[str, bytes]) -> None:
        together = Together()
        try:
            together.alarm = Alarm.restore(unpack(data_of[_FIELDS])[0])
        except (ValueError, KeyError, TypeError) as exc:
            logger.error("drift of all sources in %s cannot be read from the store: %s", model, exc)
        self.together[model] = together

    def _add_hour(self, key: HourKey, counts: NDArray[Any]) -> None:
        if key not in self._hours:
            saved = None if key[:2] in self._erased else self._store.hour(key)
            self._hours[key] = np.zeros(BINS, np.uint32) if saved is None else unpack(saved)[1][0]
        self._hours[key] += counts
        self._dirty_hours.add(key)

    def _add_minute(self, counts: MinuteCounts) -> None:
        key = counts.model, counts.source[:_MAX_NAME], counts.minute
        known = self._minutes.setdefault(key, MinuteCounts(*key))
        known.add(counts.images, counts.detections)
        self._dirty_minutes.add(key)

    def _pack(self, watched: Watched, names: set[str]) -> dict[str, bytes]:
        parts = {_FIELDS: pack(watched.fields()), _WINDOW: watched.window.pack()}
        parts = {name: data for name, data in parts.items() if name in names}
        for hour in watched.reference.changed:
            parts[f"{_SLOT}{hour}"] = watched.reference.pack_hour(hour)
        return parts

    def _tidy(self, now_s: float) -> None:
        """Forget what is too old, so that the memory stays bounded."""
        self._tidied_at_s = now_s
        current = int(now_s // _HOUR_S)
        self._hours = {key: counts for key, counts in self._hours.items() if key.hour >= current - 1}
        self._minutes = {key: minute for key, minute in self._minutes.items() if key[2] >= now_s // 60 - _KEPT_MINUTES}
        for key, watched in list(self.sources.items()):
            if now_s - watched.seen_at_s > _FORGET_AFTER_S:
                self._remove(key)
        alive = self._store.reporters()
        self._numbers = {name: number for name, number in self._numbers.items() if name in alive}
        self._answers = {name: notices for name, notices in self._answers.items() if name in alive}


def _notice(model: str, source: str, change: Change, watched: Watched | Together, now_s: float) -> Notice:
    alarm = watched.alarm
    return Notice(model, source, change, tuple(alarm.named()), dict(alarm.features), now_s, alarm.since_at_s)

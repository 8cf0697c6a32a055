"""The tables and lines that ``sightline streams`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.table import Table

from serve_app.schemas.streams import StreamStatus


def status_table(streams: list[StreamStatus]) -> Table:
    """Return a table with one row for each stream."""
    table = Table(box=SIMPLE, padding=0)
    for heading in ("stream", "state", "source", "camera fps", "processed", "dropped", "frames", "drops", "age"):
        table.add_column(heading, overflow="fold")
    for stream in streams:
        age = f"{stream.latest.age_s:.2f} s" if stream.latest else ""
        drops = _counts(stream.dropped)
        table.add_row(
            stream.stream_id, _state(stream), stream.source, *_rates(stream), str(stream.processed), drops, age
        )
    return table


def status_line(stream: StreamStatus) -> str:
    """Return the state and the counters of a stream as one line."""
    camera, processed, dropped = _rates(stream)
    return (
        f"{stream.stream_id}: {_state(stream)}; camera {camera} fps, processed {processed}, dropped {dropped}; "
        f"frames {stream.processed}, drops {_counts(stream.dropped)}"
    )


def _state(stream: StreamStatus) -> str:
    notes = [stream.detail] if stream.detail else []
    notes += [f"{stream.reconnects} reconnects"] if stream.reconnects else []
    notes += [f"{stream.restarts} restarts"] if stream.restarts else []
    health = stream.scene_health
    notes += [f"scene {health.state}: {health.detail}"] if health and health.state not in {"ok", "unknown"} else []
    return f"{stream.state}: {', '.join(notes)}" if notes else stream.state


def _rates(stream: StreamStatus) -> list[str]:
    return [f"{rate:.1f}" for rate in (stream.camera_fps, stream.processed_fps, stream.dropped_fps)]


def _counts(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "0"


def details(stream: StreamStatus) -> Iterator[Table]:
    """Yield the tables of one stream: its counts, its sinks, and the detections in its latest frame."""
    if stream.zones or stream.lines:
        counts = Table("zone or line", "inside", "in", "out", box=SIMPLE)
        for name, zone in stream.zones.items():
            counts.add_row(name, str(zone.inside), str(zone.entered), str(zone.left))
        for name, line in stream.lines.items():
            counts.add_row(name, "", str(line.crossed_in), str(line.crossed_out))
        yield counts
    if stream.sinks:
        sinks = Table("sink", "to", "sent", "waiting", "dropped", "", box=SIMPLE)
        for sink in stream.sinks:
            sinks.add_row(sink.type, sink.target, str(sink.sent), str(sink.waiting), _counts(sink.dropped), sink.detail)
        yield sinks
    latest = stream.latest
    found = Table("label", "confidence", "x1", "y1", "x2", "y2", title=f"frame {latest.frame_id}" if latest else None)
    for detection in latest.detections if latest else []:
        box = detection.bbox
        label = detection.label if detection.track_id is None else f"{detection.label} {detection.track_id}"
        corners = [f"{side:.0f}" for side in (box.x1, box.y1, box.x2, box.y2)]
        found.add_row(label, f"{detection.confidence:.2f}", *corners)
    for each in (latest and latest.classes) or []:
        found.add_row(each.label, f"{each.confidence:.2f}")
    yield found

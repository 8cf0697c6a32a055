"""Start, watch and stop streams on a running Sightline server, over its HTTP API.

  scripts/streams.py start --id lot --source FILE_OR_URI    start a stream without zones, sinks or recordings
  scripts/streams.py apply configs/streams.yaml             start a file's new streams, and replace its changed streams
  scripts/streams.py watch                                  watch all streams until Ctrl-C; `watch lot` watches one
  scripts/streams.py events lot --types zone,line           print each event as a line of JSON
  scripts/streams.py show lot                               print the whole status as JSON
  scripts/streams.py frame lot --output lot.jpg             save the newest frame, with boxes drawn
  scripts/streams.py regions lot regions.yaml               change the zones and lines; without a file, print them
  scripts/streams.py pause lot                              close the source; `resume lot` opens it again
  scripts/streams.py stop lot                               stop and delete the stream

--url or SIGHTLINE_URL sets the server (default: http://127.0.0.1:8000). SIGHTLINE_KEY sets the API key if the server
requires one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.progress import track
from rich.table import Table

from serve_app.cli.output import print_any_text
from serve_app.client import ApiError, Client, ConnectionFailed
from serve_app.client.connection import DEFAULT_URL
from serve_app.schemas.streams import StreamSpec, StreamStatus
from serve_app.types import Json

_WATCH_INTERVAL_S = 0.5
_APPLIED = "applied"  # the name of the tag that holds a hash of a stream's settings
_ENDED = {"completed", "failed"}


class CommandFailed(Exception):
    """A command failed. The message is one sentence that says why."""


def main() -> None:
    """Run one command. If the command fails, print one sentence and exit with status 1."""
    print_any_text()
    options = parse_arguments()
    try:
        # There is no argument for the key, because all users of the machine can see a process's arguments.
        client = Client(options.url)
    except ValueError as exc:
        sys.exit(str(exc))
    try:
        with client:
            options.run(client, options)
    except (CommandFailed, ApiError) as exc:
        sys.exit(str(exc))
    except ConnectionFailed:
        sys.exit(f"no server responds at {options.url}: start one with scripts/serve, or set another URL with --url")
    except KeyboardInterrupt:
        pass


def parse_arguments() -> argparse.Namespace:
    """Parse the command line. The attribute ``run`` of the result is the command's function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("SIGHTLINE_URL", DEFAULT_URL)
    common.add_argument("--url", default=url, help=f"the server (default: SIGHTLINE_URL, or {DEFAULT_URL})")

    def add(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, parents=[common])
        command.set_defaults(run=run)
        return command

    start_parser = add("start", start, "start a stream")
    start_parser.add_argument("--id", required=True, help="the new stream's id: letters, digits, - and _")
    start_parser.add_argument(
        "--source",
        required=True,
        help="a file, a folder of images, /dev/video0, or an rtsp://, http://, udp:// or tcp:// address",
    )
    start_parser.add_argument(
        "--confidence", type=float, help="minimum confidence of a detection (default: the server's)"
    )
    start_parser.add_argument("--iou", type=float, help="IoU threshold of NMS (default: the server's)")
    start_parser.add_argument(
        "--classes",
        action="append",
        default=[],
        help="comma-separated labels or ids; put a label that contains a comma in double quotes",
    )
    start_parser.add_argument(
        "--policy",
        choices=("wait", "drop_oldest"),
        help="what to do if the detector is slower than the source: wait for the detector (default for files), or drop "
        "frames and continue with the newest frame (default for live sources; with drop_oldest, a file plays in real "
        "time)",
    )
    start_parser.add_argument("--max-fps", type=float, help="process at most this many frames per second")
    start_parser.add_argument("--loop", action="store_true", help="when a file ends, play it again")
    start_parser.add_argument("--track", action="store_true", help="track objects: keep their ids from frame to frame")
    start_parser.add_argument(
        "--degrade", action="store_true", help="start the stream even if the detectors lack the capacity for it"
    )

    apply_parser = add("apply", apply, "start or replace the streams in a YAML file")
    apply_parser.add_argument("file", type=Path)
    apply_parser.add_argument("--prune", action="store_true", help="delete streams no longer listed in the file")

    add("list", list_streams, "print a table of all streams")
    add("watch", watch, "show a live table; for a single stream, also its detections").add_argument(
        "ids", nargs="*", metavar="ID"
    )
    events_parser = add("events", print_events, "print the events of a stream, each as one line of JSON")
    events_parser.add_argument("id")
    events_parser.add_argument("--types", default="", help="comma-separated: result, state, gap, zone, line, recording")
    add("show", show, "print the whole status of a stream as JSON").add_argument("id")
    frame_parser = add("frame", save_frame, "save the newest processed frame")
    frame_parser.add_argument("id")
    frame_parser.add_argument("--output", type=Path, required=True, help="the JPEG file to write")
    frame_parser.add_argument("--no-boxes", action="store_true", help="do not draw boxes")
    regions_parser = add("regions", set_regions, "print or change the zones and lines of a stream")
    regions_parser.add_argument("id")
    regions_parser.add_argument("file", type=Path, nargs="?", help="a YAML file with `zones:` and `lines:`")
    for name, run, summary in (
        ("pause", pause, "close the source of a stream until it is resumed"),
        ("resume", resume, "reopen the source of a paused stream"),
        ("stop", stop, "stop and delete a stream"),
    ):
        add(name, run, summary).add_argument("ids", nargs="+", metavar="ID")
    return parser.parse_args()


def start(client: Client, options: argparse.Namespace) -> None:
    """Start a stream and wait for its first frame. Raise CommandFailed if the stream fails before its first frame."""
    spec = {
        "id": options.id,
        "source": {"uri": absolute_source(options.source, Path()), "loop": options.loop},
        "detect": {"confidence": options.confidence, "iou": options.iou, "classes": split(options.classes)},
        "policy": options.policy,
        "max_fps": options.max_fps,
        "track": options.track,
        "degrade": options.degrade,
    }
    now = client.streams.create(spec)
    with Console().status(f"starting stream {options.id}"):
        while now.state == "starting":
            time.sleep(_WATCH_INTERVAL_S)
            now = client.streams.status(options.id)
    if now.state == "failed":
        client.streams.delete(options.id)
        raise CommandFailed(f"stream {options.id}: {now.detail}")
    print(f"stream {options.id} is {now.state}: watch it with scripts/streams.py watch {options.id}")


def split(values: list[str]) -> list[str]:
    """Split comma-separated values. As in CSV, double quotes protect a comma inside a value."""
    return [part.strip() for row in csv.reader(values, skipinitialspace=True) for part in row]


def apply(client: Client, options: argparse.Namespace) -> None:
    """Start or replace the streams in a file. With --prune, delete the streams that the file no longer lists."""
    specs = read_specs(options.file)
    existing = {stream.stream_id: stream for stream in client.streams.list()}
    outcomes = {}
    for stream_id, spec in track(specs.items(), "applying", console=Console(stderr=True), transient=True):
        outcomes[stream_id] = apply_one(client, spec, existing.get(stream_id))
    if options.prune:
        for stream_id in sorted(existing.keys() - specs.keys()):
            if _APPLIED in existing[stream_id].tags:
                client.streams.delete(stream_id)
                outcomes[stream_id] = "removed"
    for stream_id, outcome in outcomes.items():
        print(f"{stream_id}: {outcome}")
    if any(outcome.startswith("refused") for outcome in outcomes.values()):
        raise CommandFailed("some streams were refused: correct them and apply the file again")


def apply_one(client: Client, spec: Json, existing: StreamStatus | None) -> str:
    """Start one stream, or replace it if its settings have changed, and return the outcome."""
    if existing is not None and existing.tags.get(_APPLIED) == spec["tags"][_APPLIED]:
        return "unchanged"
    try:
        if existing is None:
            client.streams.create(spec)
        else:
            client.streams.replace(spec)
    except ApiError as exc:
        return f"refused: {exc}" + ("; the running stream was not changed" if existing else "")
    return "started" if existing is None else "replaced"


def read_specs(file: Path) -> dict[str, Json]:
    """Return the streams of a YAML file by id. Each stream gets a tag with a hash of its settings.

    Raise CommandFailed if the file or one of its streams is not valid.
    """
    try:
        content = yaml.safe_load(file.read_bytes())
        defaults, streams = content.pop("defaults", None) or {}, content.pop("streams")
    except (OSError, yaml.YAMLError, AttributeError, KeyError) as exc:
        raise CommandFailed(
            f"{file} is not a file of streams: it needs a list `streams:` ({type(exc).__name__})"
        ) from exc
    if content or not isinstance(streams, list):
        raise CommandFailed(
            f"{file} must have a list `streams:`, and may have `defaults:`"
            + (f"; remove {', '.join(map(str, content))}" if content else "")
        )
    specs: dict[str, Json] = {}
    for number, stream in enumerate(streams, 1):
        spec = merged(defaults, stream) if isinstance(stream, dict) else {}
        name = f"{file}: stream {spec.get('id', number)}"
        if "id" not in spec or spec["id"] in specs:
            raise CommandFailed(f"{name} needs a unique id")
        try:
            spec["source"]["uri"] = absolute_source(spec["source"]["uri"], file.parent)
            StreamSpec.model_validate(spec)
        except (KeyError, TypeError) as exc:
            raise CommandFailed(f"{name} needs a source with a uri") from exc
        except ValidationError as exc:
            problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
            raise CommandFailed(f"{name}: {'; '.join(problems)}") from exc
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        spec["tags"] = {**spec.get("tags", {}), _APPLIED: digest[:12]}
        specs[spec["id"]] = spec
    return specs


def merged(defaults: Json, over: Json) -> Json:
    """Return ``defaults`` with the values of ``over`` taking precedence. Nested mappings are merged too."""
    both = {
        key: merged(defaults[key], value)
        for key, value in over.items()
        if isinstance(defaults.get(key), dict) and isinstance(value, dict)
    }
    return {**defaults, **over, **both}


def absolute_source(source: str, folder: Path) -> str:
    """Return the absolute path if the source is a local file or folder. Return any other source unchanged."""
    path = folder / Path(source).expanduser()
    return str(path.resolve()) if "://" not in source and path.exists() else source


def list_streams(client: Client, options: argparse.Namespace) -> None:
    """Print a table of every stream."""
    Console().print(status_table(client.streams.list()))


def watch(client: Client, options: argparse.Namespace) -> None:
    """Show a live table until all named streams have ended. If only one stream is named, show its detections too."""
    with Live(refresh_per_second=4) as live:
        while True:
            try:
                streams = [client.streams.status(stream_id) for stream_id in options.ids] or client.streams.list()
            except ApiError as exc:
                if not exc.is_retryable:
                    raise
                live.update(str(exc))
                time.sleep(_WATCH_INTERVAL_S)
                continue
            table = status_table(streams)
            live.update(Group(table, *details(streams[0])) if len(options.ids) == 1 else table)
            if options.ids and all(stream.state in _ENDED for stream in streams):
                return
            time.sleep(_WATCH_INTERVAL_S)


def print_events(client: Client, options: argparse.Namespace) -> None:
    """Print each event as it arrives, until Ctrl-C."""
    for event in client.streams.events(options.id, options.types or None):
        print(event.json, flush=True)


def show(client: Client, options: argparse.Namespace) -> None:
    """Print a stream's whole status."""
    print(json.dumps(client.streams.status(options.id).model_dump(mode="json"), indent=2))


def save_frame(client: Client, options: argparse.Namespace) -> None:
    """Save a stream's newest frame as a JPEG file."""
    frame = client.streams.frame(options.id, boxes=not options.no_boxes)
    try:
        options.output.write_bytes(frame.jpeg)
    except OSError as exc:
        raise CommandFailed(f"--output: {options.output} cannot be written: {exc.strerror}") from exc
    print(f"frame {frame.frame_id} was saved to {options.output}")


def set_regions(client: Client, options: argparse.Namespace) -> None:
    """Change a stream's zones and lines if a file is given, and then print the current zones and lines."""
    if options.file is not None:
        try:
            client.streams.set_regions(options.id, yaml.safe_load(options.file.read_bytes()))
        except (OSError, yaml.YAMLError) as exc:
            raise CommandFailed(f"{options.file} cannot be read as YAML ({type(exc).__name__})") from exc
    regions = client.streams.regions(options.id)
    print(yaml.safe_dump(regions.model_dump(mode="json"), sort_keys=False), end="")


def pause(client: Client, options: argparse.Namespace) -> None:
    """Pause the named streams."""
    for stream_id in options.ids:
        print(f"stream {stream_id} is {client.streams.pause(stream_id).state}")


def resume(client: Client, options: argparse.Namespace) -> None:
    """Resume the named streams."""
    for stream_id in options.ids:
        print(f"stream {stream_id} is {client.streams.resume(stream_id).state}")


def stop(client: Client, options: argparse.Namespace) -> None:
    """Stop and delete the named streams."""
    for stream_id in options.ids:
        client.streams.delete(stream_id)
        print(f"stream {stream_id} stopped")


def status_table(streams: list[StreamStatus]) -> Table:
    """Return a table with one row for each stream."""
    table = Table(box=SIMPLE, padding=0)
    for heading in ("stream", "state", "source", "camera fps", "processed", "dropped", "frames", "drops", "age"):
        table.add_column(heading, overflow="fold")
    for stream in streams:
        notes = [stream.detail] if stream.detail else []
        notes += [f"{stream.reconnects} reconnects"] if stream.reconnects else []
        notes += [f"{stream.restarts} restarts"] if stream.restarts else []
        state = f"{stream.state}: {', '.join(notes)}" if notes else stream.state
        dropped = ", ".join(f"{count} {reason}" for reason, count in stream.dropped.items()) or "0"
        age = f"{stream.latest.age_s:.2f} s" if stream.latest else ""
        fps = [f"{rate:.1f}" for rate in (stream.camera_fps, stream.processed_fps, stream.dropped_fps)]
        table.add_row(stream.stream_id, state, stream.source, *fps, str(stream.processed), dropped, age)
    return table


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
            dropped = ", ".join(f"{count} {reason}" for reason, count in sink.dropped.items()) or "0"
            sinks.add_row(sink.type, sink.target, str(sink.sent), str(sink.waiting), dropped, sink.detail)
        yield sinks
    latest = stream.latest
    found = Table("label", "confidence", "x1", "y1", "x2", "y2", title=f"frame {latest.frame_id}" if latest else None)
    for detection in latest.detections if latest else []:
        box = detection.bbox
        label = detection.label if detection.track_id is None else f"{detection.label} {detection.track_id}"
        corners = [f"{side:.0f}" for side in (box.x1, box.y1, box.x2, box.y2)]
        found.add_row(label, f"{detection.confidence:.2f}", *corners)
    yield found


if __name__ == "__main__":
    main()

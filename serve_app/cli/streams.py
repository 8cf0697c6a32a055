"""Start, watch and end the streams of a running Sightline, over its HTTP API.

scripts/streams.py start --id lot --source FILE_OR_URI      or -- for zones, sinks, recordings -- from a file:
scripts/streams.py apply configs/streams.yaml               starts new streams, replaces those that have changed
scripts/streams.py watch                                    all of them, live, until Ctrl-C; or: watch lot
scripts/streams.py events lot --types zone,line             a line of JSON each
scripts/streams.py show lot                                 its whole status, as JSON
scripts/streams.py frame lot --output lot.jpg               its newest frame, boxes drawn
scripts/streams.py regions lot regions.yaml                 change its zones and lines; without a file: print them
scripts/streams.py pause lot; scripts/streams.py resume lot; scripts/streams.py stop lot

SIGHTLINE_URL or --url is the server, http://127.0.0.1:8000 by default. SIGHTLINE_KEY is the API key, if it needs one.
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
_APPLIED = "applied"  # the tag that says from which text of a file a stream was made
_ENDED = {"completed", "failed"}


class CommandFailed(Exception):
    """Why a command did not do what it was asked to, in a sentence."""


def main() -> None:
    """Run one command. Exits 1 with a sentence when it fails."""
    print_any_text()
    options = parse_arguments()
    try:
        client = Client(options.url)  # the key is no argument, since every user of the machine could see it
    except ValueError as exc:
        sys.exit(str(exc))
    try:
        with client:
            options.run(client, options)
    except (CommandFailed, ApiError) as exc:
        sys.exit(str(exc))
    except ConnectionFailed:
        sys.exit(f"nobody answers at {options.url}: start it with scripts/serve, or name another with --url")
    except KeyboardInterrupt:
        pass


def parse_arguments() -> argparse.Namespace:
    """Return the command and its options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    everywhere = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("SIGHTLINE_URL", DEFAULT_URL)
    everywhere.add_argument("--url", default=url, help=f"default: SIGHTLINE_URL, or {DEFAULT_URL}")

    def add(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, parents=[everywhere])
        command.set_defaults(run=run)
        return command

    start_parser = add("start", start, "start a stream")
    start_parser.add_argument("--id", required=True, help="letters, digits, - and _")
    start_parser.add_argument(
        "--source", required=True, help="a file, a folder of pictures, /dev/video0, or rtsp://, http://, udp://, tcp://"
    )
    start_parser.add_argument("--confidence", type=float, help="default: the application's")
    start_parser.add_argument("--iou", type=float)
    start_parser.add_argument(
        "--classes",
        action="append",
        default=[],
        help="labels or ids with commas between them; a label that has a comma stands in double quotes",
    )
    start_parser.add_argument(
        "--policy",
        choices=("wait", "drop_oldest"),
        help="when the detector is slower than the source: wait for it (a file's default), or skip to the newest "
        "frame, counting what is dropped (a live source's default; a file then plays at its own pace)",
    )
    start_parser.add_argument("--max-fps", type=float, help="take no more frames a second than this")
    start_parser.add_argument("--loop", action="store_true", help="start a file over when it ends")
    start_parser.add_argument("--track", action="store_true", help="give objects an id from frame to frame")
    start_parser.add_argument("--degrade", action="store_true", help="even where the detectors cannot hold it")

    apply_parser = add("apply", apply, "start the streams of a YAML file")
    apply_parser.add_argument("file", type=Path)
    apply_parser.add_argument("--prune", action="store_true", help="delete streams no longer listed in the file")

    add("list", list_streams, "every stream")
    add("watch", watch, "a live table; for one stream, its detections too").add_argument("ids", nargs="*", metavar="ID")
    events_parser = add("events", print_events, "print what happens in a stream, one line of JSON for each event")
    events_parser.add_argument("id")
    events_parser.add_argument("--types", default="", help="comma-separated: result, state, gap, zone, line, recording")
    add("show", show, "print a stream's whole status as JSON").add_argument("id")
    frame_parser = add("frame", save_frame, "save the newest frame that was processed")
    frame_parser.add_argument("id")
    frame_parser.add_argument("--output", type=Path, required=True, help="a JPEG file")
    frame_parser.add_argument("--no-boxes", action="store_true", help="do not draw what was found")
    regions_parser = add("regions", set_regions, "print its zones and lines, or change them")
    regions_parser.add_argument("id")
    regions_parser.add_argument("file", type=Path, nargs="?", help="YAML with `zones:` and `lines:`")
    for name, run, summary in (
        ("pause", pause, "close its source until it is resumed"),
        ("resume", resume, "open its source again"),
        ("stop", stop, "end it and delete it"),
    ):
        add(name, run, summary).add_argument("ids", nargs="+", metavar="ID")
    return parser.parse_args()


def start(client: Client, options: argparse.Namespace) -> None:
    """Start a stream and wait for its first frame. Raises CommandFailed when it fails before."""
    spec = {
        "id": options.id,
        "source": {"uri": found_here(options.source, Path()), "loop": options.loop},
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
    """Return the parts of comma-separated values; one with commas of its own stands in double quotes, as in CSV."""
    return [part.strip() for row in csv.reader(values, skipinitialspace=True) for part in row]


def apply(client: Client, options: argparse.Namespace) -> None:
    """Run the streams of a file as it says. Others are left alone, unless --prune is given."""
    specs = read_specs(options.file)
    there = {stream.stream_id: stream for stream in client.streams.list()}
    outcomes = {}
    for stream_id, spec in track(specs.items(), "applying", console=Console(stderr=True), transient=True):
        outcomes[stream_id] = apply_one(client, spec, there.get(stream_id))
    if options.prune:
        for stream_id in sorted(there.keys() - specs.keys()):
            if _APPLIED in there[stream_id].tags:
                client.streams.delete(stream_id)
                outcomes[stream_id] = "removed"
    for stream_id, outcome in outcomes.items():
        print(f"{stream_id}: {outcome}")
    if any(outcome.startswith("refused") for outcome in outcomes.values()):
        raise CommandFailed("some streams were refused")


def apply_one(client: Client, spec: Json, there: StreamStatus | None) -> str:
    """Start or replace one stream where it has changed, and return what was done."""
    if there is not None and there.tags.get(_APPLIED) == spec["tags"][_APPLIED]:
        return "unchanged"
    try:
        if there is None:
            client.streams.create(spec)
        else:
            client.streams.replace(spec)
    except ApiError as exc:
        return f"refused: {exc}" + ("; it stays as it was" if there else "")
    return "started" if there is None else "replaced"


def read_specs(file: Path) -> dict[str, Json]:
    """Return the streams of a YAML file by id, each with a tag that changes with it. Raises CommandFailed."""
    try:
        content = yaml.safe_load(file.read_bytes())
        defaults, streams = content.pop("defaults", None) or {}, content.pop("streams")
    except (OSError, yaml.YAMLError, AttributeError, KeyError) as exc:
        raise CommandFailed(f"{file} is no file of streams: it has a list `streams:` ({type(exc).__name__})") from exc
    if content or not isinstance(streams, list):
        raise CommandFailed(
            f"{file} has `streams:`, a list, and `defaults:`; not {', '.join(map(str, content)) or 'this'}"
        )
    specs: dict[str, Json] = {}
    for number, stream in enumerate(streams, 1):
        spec = merged(defaults, stream) if isinstance(stream, dict) else {}
        name = f"{file}: stream {spec.get('id', number)}"
        if "id" not in spec or spec["id"] in specs:
            raise CommandFailed(f"{name} needs an id of its own")
        try:
            spec["source"]["uri"] = found_here(spec["source"]["uri"], file.parent)
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
    """Return ``defaults`` with the values of ``over`` in their place, mapping by mapping."""
    both = {
        key: merged(defaults[key], value)
        for key, value in over.items()
        if isinstance(defaults.get(key), dict) and isinstance(value, dict)
    }
    return {**defaults, **over, **both}


def found_here(source: str, folder: Path) -> str:
    """Return the full path of a file or folder of this machine, and anything else unchanged."""
    path = folder / Path(source).expanduser()
    return str(path.resolve()) if "://" not in source and path.exists() else source


def list_streams(client: Client, options: argparse.Namespace) -> None:
    """Print a table of every stream."""
    Console().print(status_table(client.streams.list()))


def watch(client: Client, options: argparse.Namespace) -> None:
    """Show a table of streams until those that were named have ended; for a single one, its detections too."""
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
    """Print each event as it comes, until Ctrl-C."""
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
    print(f"frame {frame.frame_id} is in {options.output}")


def set_regions(client: Client, options: argparse.Namespace) -> None:
    """Change a stream's zones and lines if a file is given, and print them."""
    if options.file is not None:
        try:
            client.streams.set_regions(options.id, yaml.safe_load(options.file.read_bytes()))
        except (OSError, yaml.YAMLError) as exc:
            raise CommandFailed(f"{options.file} cannot be read as YAML ({type(exc).__name__})") from exc
    regions = client.streams.regions(options.id)
    print(yaml.safe_dump(regions.model_dump(mode="json"), sort_keys=False), end="")


def pause(client: Client, options: argparse.Namespace) -> None:
    """Pause streams."""
    for stream_id in options.ids:
        print(f"stream {stream_id} is {client.streams.pause(stream_id).state}")


def resume(client: Client, options: argparse.Namespace) -> None:
    """Resume streams."""
    for stream_id in options.ids:
        print(f"stream {stream_id} is {client.streams.resume(stream_id).state}")


def stop(client: Client, options: argparse.Namespace) -> None:
    """Delete streams."""
    for stream_id in options.ids:
        client.streams.delete(stream_id)
        print(f"stream {stream_id} stopped")


def status_table(streams: list[StreamStatus]) -> Table:
    """Return a table with a row for each stream."""
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
    """Return tables of one stream: its counts, its sinks, and the detections of its latest frame."""
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

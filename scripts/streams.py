#!/usr/bin/env python3
"""Start, watch and end the streams of a running Sightline, over its HTTP API.

scripts/streams.py start --id lot --source FILE_OR_URI      or -- for zones, sinks, recordings -- from a file:
scripts/streams.py apply configs/streams.yaml               starts what is not there, replaces what has changed
scripts/streams.py watch                                    all of them, live, until Ctrl-C; or: watch lot
scripts/streams.py events lot --types zone,line             a line of JSON each
scripts/streams.py show lot                                 all that it says of itself, as JSON
scripts/streams.py frame lot --output lot.jpg               its newest frame, boxes drawn
scripts/streams.py regions lot regions.yaml                 other zones and lines; no file: prints them
scripts/streams.py pause lot; scripts/streams.py resume lot; scripts/streams.py stop lot

SIGHTLINE_URL or --url says where it is; http://127.0.0.1:8000 otherwise. SIGHTLINE_KEY is the API key, if it needs one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if sys.prefix == sys.base_prefix and (ROOT / ".venv/bin/python").exists():  # started outside the environment
    os.execv(ROOT / ".venv/bin/python", [str(ROOT / ".venv/bin/python"), __file__, *sys.argv[1:]])

import httpx
import yaml
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.progress import track
from rich.table import Table

from serve_app.schemas.streams import StreamList, StreamSpec, StreamStatus

TIMEOUT_S = 60.0
BUSY = {429, 503}  # more than the key may at once; a part of the server starts anew
WATCH_PERIOD_S = 0.5
RECONNECT_PAUSE_S = 1.0
APPLIED = "applied"  # the tag that says from which text of a file a stream was made
OVER = {"completed", "failed"}


class Refused(Exception):
    """What the server, or a file, did not allow, in a sentence."""


class Busy(Refused):
    """The server did not answer this time, and may later."""


def main() -> None:
    """Run one command; exits 1 with a sentence when it is refused."""
    options = parse_arguments()
    try:
        key = os.environ.get("SIGHTLINE_KEY")  # not an argument, which every user of the machine could see
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=options.url, timeout=TIMEOUT_S, trust_env=False, headers=headers) as http:
            options.run(http, options)
    except Refused as exc:
        sys.exit(str(exc))
    except httpx.TransportError:
        sys.exit(f"nobody answers at {options.url}: start it with scripts/serve, or name another with --url")
    except KeyboardInterrupt:
        pass


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    everywhere = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("SIGHTLINE_URL", "http://127.0.0.1:8000")
    everywhere.add_argument("--url", default=url, help="default: SIGHTLINE_URL, or http://127.0.0.1:8000")

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
    start_parser.add_argument("--classes", action="append", default=[], help="labels or ids, comma-separated")
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
    apply_parser.add_argument(
        "--prune", action="store_true", help="end those that came from a file and are in it no more"
    )

    add("list", list_streams, "every stream")
    add("watch", watch, "live; of one stream, its detections too").add_argument("ids", nargs="*", metavar="ID")
    events_parser = add("events", print_events, "what happens in a stream, a line of JSON each")
    events_parser.add_argument("id")
    events_parser.add_argument("--types", default="", help="comma-separated: result, state, gap, zone, line, recording")
    add("show", show, "all that a stream says of itself, as JSON").add_argument("id")
    frame_parser = add("frame", save_frame, "save the newest frame that was processed")
    frame_parser.add_argument("id")
    frame_parser.add_argument("--output", type=Path, required=True, help="a JPEG file")
    frame_parser.add_argument("--no-boxes", action="store_true", help="without what was found")
    regions_parser = add("regions", set_regions, "print its zones and lines, or set others")
    regions_parser.add_argument("id")
    regions_parser.add_argument("file", type=Path, nargs="?", help="YAML with `zones:` and `lines:`")
    for name, run, summary in (
        ("pause", pause, "close its source until it is resumed"),
        ("resume", resume, "go on"),
        ("stop", stop, "end it, and forget it"),
    ):
        add(name, run, summary).add_argument("ids", nargs="+", metavar="ID")
    return parser.parse_args()


def start(http: httpx.Client, options: argparse.Namespace) -> None:
    """Start a stream and say so once its first frame is there; exits 1 when it fails."""
    spec = {
        "id": options.id,
        "source": {"uri": found_here(options.source, Path()), "loop": options.loop},
        "detect": {"confidence": options.confidence, "iou": options.iou, "classes": options.classes},
        "policy": options.policy,
        "max_fps": options.max_fps,
        "track": options.track,
        "degrade": options.degrade,
    }
    now = StreamStatus(**ask(http, "POST", "/streams", json=spec))
    with Console().status(f"starting stream {options.id}"):
        while now.state == "starting":
            time.sleep(WATCH_PERIOD_S)
            now = status(http, options.id)
    if now.state == "failed":
        ask(http, "DELETE", f"/streams/{options.id}")
        raise Refused(f"stream {options.id}: {now.detail}")
    print(f"stream {options.id} is {now.state}: watch it with scripts/streams.py watch {options.id}")


def apply(http: httpx.Client, options: argparse.Namespace) -> None:
    """What the file says is what runs. Streams that it does not name are left alone, unless --prune."""
    specs = read_specs(options.file)
    there = {stream.stream_id: stream for stream in all_streams(http)}
    outcomes = {}
    for stream_id, spec in track(specs.items(), "applying", console=Console(stderr=True), transient=True):
        outcomes[stream_id] = apply_one(http, spec, there.get(stream_id))
    if options.prune:
        for stream_id in sorted(there.keys() - specs.keys()):
            if APPLIED in there[stream_id].tags:
                ask(http, "DELETE", f"/streams/{stream_id}")
                outcomes[stream_id] = "removed"
    for stream_id, outcome in outcomes.items():
        print(f"{stream_id}: {outcome}")
    if any(outcome.startswith("refused") for outcome in outcomes.values()):
        raise Refused("some streams were refused")


def apply_one(http: httpx.Client, spec: dict[str, Any], there: StreamStatus | None) -> str:
    """What became of it."""
    if there is not None and there.tags.get(APPLIED) == spec["tags"][APPLIED]:
        return "unchanged"
    try:
        if there is None:
            ask(http, "POST", "/streams", json=spec)
        else:
            ask(http, "PUT", f"/streams/{spec['id']}", json=spec)
    except Refused as exc:
        return f"refused: {exc}" + ("; it stays as it was" if there else "")
    return "started" if there is None else "replaced"


def read_specs(file: Path) -> dict[str, dict[str, Any]]:
    """The streams of a YAML file by id, each with a tag that changes with it. Raises Refused."""
    try:
        content = yaml.safe_load(file.read_text())
        defaults, streams = content.pop("defaults", None) or {}, content.pop("streams")
    except (OSError, yaml.YAMLError, AttributeError, KeyError) as exc:
        raise Refused(f"{file} is no file of streams: it has a list `streams:` ({type(exc).__name__})") from exc
    if content or not isinstance(streams, list):
        raise Refused(f"{file} has `streams:`, a list, and `defaults:`; not {', '.join(map(str, content)) or 'this'}")
    specs: dict[str, dict[str, Any]] = {}
    for number, stream in enumerate(streams, 1):
        spec = merged(defaults, stream) if isinstance(stream, dict) else {}
        name = f"{file}: stream {spec.get('id', number)}"
        if "id" not in spec or spec["id"] in specs:
            raise Refused(f"{name} needs an id of its own")
        try:
            spec["source"]["uri"] = found_here(spec["source"]["uri"], file.parent)
            StreamSpec.model_validate(spec)
        except (KeyError, TypeError) as exc:
            raise Refused(f"{name} needs a source with a uri") from exc
        except ValidationError as exc:
            problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
            raise Refused(f"{name}: {'; '.join(problems)}") from exc
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        spec["tags"] = {**spec.get("tags", {}), APPLIED: digest[:12]}
        specs[spec["id"]] = spec
    return specs


def merged(defaults: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` where it says something, mapping by mapping, else ``defaults``."""
    both = {
        key: merged(defaults[key], value)
        for key, value in over.items()
        if isinstance(defaults.get(key), dict) and isinstance(value, dict)
    }
    return {**defaults, **over, **both}


def found_here(source: str, folder: Path) -> str:
    """A file or folder that there is on this machine by its full path; anything else as it is."""
    path = folder / Path(source).expanduser()
    return str(path.resolve()) if "://" not in source and path.exists() else source


def list_streams(http: httpx.Client, options: argparse.Namespace) -> None:
    """A table with a line a stream."""
    Console().print(status_table(all_streams(http)))


def watch(http: httpx.Client, options: argparse.Namespace) -> None:
    """A line a stream, renewed until those that were named are over; of a single one, what is in it too."""
    with Live(refresh_per_second=4) as live:
        while True:
            try:
                streams = [status(http, stream_id) for stream_id in options.ids] or all_streams(http)
            except Busy as exc:
                live.update(str(exc))
                time.sleep(WATCH_PERIOD_S)
                continue
            table = status_table(streams)
            live.update(Group(table, *details(streams[0])) if len(options.ids) == 1 else table)
            if options.ids and all(stream.state in OVER for stream in streams):
                return
            time.sleep(WATCH_PERIOD_S)


def print_events(http: httpx.Client, options: argparse.Namespace) -> None:
    """Until Ctrl-C; a connection that breaks is made again, and goes on where it was."""
    last_id: str | None = None
    while True:
        try:
            for name, value in read_events(http, options.id, options.types, last_id):
                if name == "id":
                    last_id = value
                else:
                    print(value, flush=True)
        except (httpx.TransportError, Busy):
            time.sleep(RECONNECT_PAUSE_S)


def read_events(http: httpx.Client, stream_id: str, types: str, last_id: str | None) -> Iterator[tuple[str, str]]:
    """The fields ``id`` and ``data`` of Server-Sent Events. Raises Refused, httpx.TransportError at the end."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    query = {"types": types} if types else {}
    with http.stream("GET", f"/streams/{stream_id}/events", params=query, headers=headers) as response:
        if response.is_error:
            response.read()
            check(response)
        for line in response.iter_lines():
            name, _, value = line.partition(":")
            if name in {"id", "data"}:
                yield name, value.removeprefix(" ")
    raise httpx.ReadError("the server ended the answer")


def show(http: httpx.Client, options: argparse.Namespace) -> None:
    """The status as it is."""
    print(json.dumps(ask(http, "GET", f"/streams/{options.id}"), indent=2))


def save_frame(http: httpx.Client, options: argparse.Namespace) -> None:
    """As a JPEG file."""
    response = http.get(f"/streams/{options.id}/frame.jpg", params={"boxes": not options.no_boxes})
    if response.is_error:
        check(response)
    options.output.write_bytes(response.content)
    print(f"frame {response.headers['X-Frame-Id']} is in {options.output}")


def set_regions(http: httpx.Client, options: argparse.Namespace) -> None:
    """What stays as it was keeps its counts."""
    path = f"/streams/{options.id}/regions"
    if options.file is not None:
        try:
            ask(http, "PUT", path, json=yaml.safe_load(options.file.read_text()))
        except (OSError, yaml.YAMLError) as exc:
            raise Refused(f"{options.file} cannot be read as YAML ({type(exc).__name__})") from exc
    print(yaml.safe_dump(ask(http, "GET", path), sort_keys=False), end="")


def pause(http: httpx.Client, options: argparse.Namespace) -> None:
    """Until it is resumed."""
    for stream_id in options.ids:
        print(f"stream {stream_id} is {ask(http, 'POST', f'/streams/{stream_id}/pause')['state']}")


def resume(http: httpx.Client, options: argparse.Namespace) -> None:
    """It goes on."""
    for stream_id in options.ids:
        print(f"stream {stream_id} is {ask(http, 'POST', f'/streams/{stream_id}/resume')['state']}")


def stop(http: httpx.Client, options: argparse.Namespace) -> None:
    """For good."""
    for stream_id in options.ids:
        ask(http, "DELETE", f"/streams/{stream_id}")
        print(f"stream {stream_id} stopped")


def ask(http: httpx.Client, method: str, path: str, **body: Any) -> Any:
    """The answer's JSON. Raises Refused, httpx.TransportError."""
    return check(http.request(method, path, **body))


def check(response: httpx.Response) -> Any:
    """The answer's JSON. Raises Refused."""
    if response.is_error:
        kind = Busy if response.status_code in BUSY else Refused
        try:
            raise kind(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            raise kind(f"the server answers {response.status_code}") from None
    return response.json() if response.content else None


def status(http: httpx.Client, stream_id: str) -> StreamStatus:
    """What the stream says of itself."""
    return StreamStatus(**ask(http, "GET", f"/streams/{stream_id}"))


def all_streams(http: httpx.Client) -> list[StreamStatus]:
    """What all of them say."""
    return StreamList(**ask(http, "GET", "/streams")).streams


def status_table(streams: list[StreamStatus]) -> Table:
    """A line a stream."""
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
    """What is counted, where it goes, and the detections of the latest frame."""
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

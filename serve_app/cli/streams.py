"""The commands ``sightline streams``, which start, watch and stop the streams of the running server."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serve_app.cli.confidence import ConfidenceOption
from serve_app.cli.errors import CommandFailed
from serve_app.cli.examples import examples
from serve_app.cli.output import print_json
from serve_app.cli.server import AsJson, Url, connect

if TYPE_CHECKING:
    from serve_app.client import ApiError, Client
    from serve_app.schemas.streams import StreamStatus
    from serve_app.types import Json

_WATCH_INTERVAL_S = 0.5
_LINE_INTERVAL_S = 1.0
_ENDED = {"completed", "failed"}

Id = Annotated[str, typer.Argument(metavar="ID", help="The stream's id.", show_default=False)]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="The streams' ids.", show_default=False)]

app = typer.Typer(
    no_args_is_help=True,
    help="Start, watch and stop streams on the running server.",
    epilog=examples(
        "sightline streams start --id lot --source lot.mp4 --loop",
        "sightline streams watch lot",
        "sightline streams stop lot",
    ),
)


@app.command(
    short_help="Start a stream.",
    epilog=examples(
        "sightline streams start --id lot --source lot.mp4 --loop",
        "sightline streams start --id gate --source rtsp://camera/1 --max-fps 5 --classes person,car",
    ),
)
def start(
    stream_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="The new stream's id: letters, digits, - and _.")
    ],
    source: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="A file, a folder of images, /dev/video0, or an rtsp://, http://, udp:// or tcp:// address.",
        ),
    ],
    confidence: ConfidenceOption = None,
    iou: Annotated[
        float | None, typer.Option(metavar="0..1", help="The IoU threshold of NMS.  [default: the server's]")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABELS",
            help="Comma-separated labels or ids. If a label has a comma, put the label in double quotes.",
        ),
    ] = None,
    agnostic_nms: Annotated[
        bool | None,
        typer.Option("--agnostic-nms", help="Let boxes of different classes suppress each other.", show_default=False),
    ] = None,
    policy: Annotated[
        Literal["wait", "drop_oldest"] | None,
        typer.Option(
            metavar="wait|drop_oldest",
            help="What to do if the detector is slower than the source: wait for the detector (default for "
            "files), or drop frames and continue with the newest frame (default for live sources; with drop_oldest, a "
            "file plays in real time).",
        ),
    ] = None,
    max_fps: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Process at most this number of frames per second. For a file, these are seconds of the video: with "
            "the policy wait, a file is read as fast as possible, and may end sooner.",
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="When a file ends, play it again.")] = False,
    track: Annotated[bool, typer.Option("--track", help="Track objects: keep their ids from frame to frame.")] = False,
    degrade: Annotated[
        bool, typer.Option("--degrade", help="Start the stream even if the detectors lack the capacity for it.")
    ] = False,
    url: Url = None,
) -> None:
    """Start a stream without zones, sinks or recordings, and wait for its first frame."""
    from rich.console import Console

    from serve_app.cli.stream_file import absolute_source

    spec = {
        "id": stream_id,
        "source": {"uri": absolute_source(source, Path()), "loop": loop},
        "detect": {"confidence": confidence, "iou": iou, "classes": split(classes or [])}
        | ({} if agnostic_nms is None else {"agnostic_nms": agnostic_nms}),  # an older server does not know it
        "policy": policy,
        "max_fps": max_fps,
        "track": track,
        "degrade": degrade,
    }
    with connect(url) as client:
        now = client.streams.create(spec)
        with Console().status(f"starting stream {stream_id}"):
            while now.state == "starting":
                time.sleep(_WATCH_INTERVAL_S)
                now = client.streams.status(stream_id)
        if now.state == "failed":
            client.streams.delete(stream_id)
            raise CommandFailed(f"stream {stream_id}: {now.detail}")
    print(f"stream {stream_id} is {now.state}: watch it with sightline streams watch {stream_id}")


def split(values: list[str]) -> list[str]:
    """Split comma-separated values. As in CSV, double quotes protect a comma inside a value."""
    return [part.strip() for row in csv.reader(values, skipinitialspace=True) for part in row]


@app.command(epilog=examples("sightline streams apply streams.yaml", "sightline streams apply streams.yaml --prune"))
def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A YAML file with a list `streams:`.", show_default=False)
    ],
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the key's own streams no longer listed in the file.")
    ] = False,
    url: Url = None,
) -> None:
    """Start a file's new streams, and replace its changed streams."""
    from rich.console import Console
    from rich.progress import track

    from serve_app.cli.stream_file import APPLIED, read_specs
    from serve_app.client import requests

    specs = read_specs(file)
    outcomes = {}
    with connect(url) as client:
        listed = client.send(requests.list_streams())
        existing = {stream.stream_id: stream for stream in listed.streams}
        for stream_id, spec in track(specs.items(), "applying", console=Console(stderr=True), transient=True):
            outcomes[stream_id] = _apply_one(client, spec, existing.get(stream_id))
        if prune:
            for stream_id in sorted(existing.keys() - specs.keys()):
                # Streams of other keys stay, and so do those without an owner if the server has API keys.
                if APPLIED in existing[stream_id].tags and existing[stream_id].owner == listed.owner:
                    client.streams.delete(stream_id)
                    outcomes[stream_id] = "removed"
    for stream_id, outcome in outcomes.items():
        print(f"{stream_id}: {outcome}")
    if any(outcome.startswith("refused") for outcome in outcomes.values()):
        raise CommandFailed("some streams were refused: correct them and apply the file again")


def _apply_one(client: Client, spec: Json, existing: StreamStatus | None) -> str:
    """Start one stream, or replace it if its settings have changed, and return the outcome."""
    from serve_app.cli.stream_file import APPLIED
    from serve_app.client import ApiError

    if existing is not None and existing.tags.get(APPLIED) == spec["tags"][APPLIED]:
        return "unchanged"
    try:
        if existing is None:
            client.streams.create(spec)
        else:
            client.streams.replace(spec)
    except ApiError as exc:
        return f"refused: {exc}" + ("; the running stream was not changed" if existing else "")
    return "started" if existing is None else "replaced"


@app.command("list", epilog=examples("sightline streams list", "sightline streams list --json"))
def list_streams(as_json: AsJson = False, url: Url = None) -> None:
    """Print a table of all streams."""
    with connect(url) as client:
        streams = client.streams.list()
    if as_json:
        print_json(streams)
        return
    from rich.console import Console

    from serve_app.cli.stream_tables import status_table

    Console().print(status_table(streams))


@app.command(
    short_help="Show a live table of streams.",
    epilog=examples(
        "sightline streams watch", "sightline streams watch lot", "sightline streams watch lot --json > lot.jsonl"
    ),
)
def watch(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="The streams' ids.  [default: all streams]")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show a live table until Ctrl-C, or until all named streams have ended.

    For a single stream, also show its counts and its detections. If the output is not a terminal, print a line once a
    second for each stream that has changed. With --json, each line is the status of a stream as JSON.
    """
    with suppress(KeyboardInterrupt), connect(url) as client:
        if as_json or not sys.stdout.isatty():
            _print_changes(client, ids or [], as_json)
        else:
            _show_table(client, ids or [])


def _show_table(client: Client, ids: list[str]) -> None:
    from rich.console import Group
    from rich.live import Live

    from serve_app.cli.stream_tables import details, status_table
    from serve_app.client import ApiError

    with Live(refresh_per_second=4) as live:
        for streams in _statuses(client, ids, _WATCH_INTERVAL_S):
            if isinstance(streams, ApiError):
                live.update(str(streams))
            else:
                table = status_table(streams)
                live.update(Group(table, *details(streams[0])) if len(ids) == 1 else table)


def _print_changes(client: Client, ids: list[str], as_json: bool) -> None:
    """Print a line for each stream whose status has changed, apart from values that change all the time."""
    from serve_app.cli.stream_tables import status_line
    from serve_app.client import ApiError

    printed: dict[str, StreamStatus] = {}
    for streams in _statuses(client, ids, _LINE_INTERVAL_S):
        if isinstance(streams, ApiError):
            print(streams, file=sys.stderr)
            continue
        for stream in streams:
            lasting = stream.model_copy(update={"uptime_s": 0, "latest": None})
            if printed.get(stream.stream_id) != lasting:
                printed[stream.stream_id] = lasting
                line = stream.model_dump_json() if as_json else f"{time.strftime('%H:%M:%S')} {status_line(stream)}"
                print(line, flush=True)


def _statuses(client: Client, ids: list[str], interval_s: float) -> Iterator[list[StreamStatus] | ApiError]:
    """Yield the status of each named stream, or of every stream, until all named streams have ended.

    If the server cannot answer now, yield its error instead.
    """
    from serve_app.client import ApiError

    while True:
        try:
            streams = [client.streams.status(stream_id) for stream_id in ids] or client.streams.list()
        except ApiError as exc:
            if not exc.is_retryable:
                raise
            yield exc
        else:
            yield streams
            if ids and all(stream.state in _ENDED for stream in streams):
                return
        time.sleep(interval_s)


@app.command(epilog=examples("sightline streams events lot", "sightline streams events lot --types zone,line"))
def events(
    stream_id: Id,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="TYPES",
            help="Comma-separated: result, state, gap, zone, line, recording, scene_health, label.  [default: all]",
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Print each event of a stream as one line of JSON, until Ctrl-C."""
    with suppress(KeyboardInterrupt), connect(url) as client:
        for event in client.streams.events(stream_id, types or None):
            print(event.json, flush=True)


@app.command(epilog=examples("sightline streams show lot"))
def show(stream_id: Id, url: Url = None) -> None:
    """Print the whole status of a stream as JSON."""
    with connect(url) as client:
        print_json(client.streams.status(stream_id))


@app.command(epilog=examples("sightline streams frame lot --output lot.jpg"))
def frame(
    stream_id: Id,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The JPEG file to write.")],
    no_boxes: Annotated[bool, typer.Option("--no-boxes", help="Do not draw boxes.")] = False,
    url: Url = None,
) -> None:
    """Save the newest processed frame, with boxes drawn."""
    with connect(url) as client:
        newest = client.streams.frame(stream_id, boxes=not no_boxes)
    try:
        output.write_bytes(newest.jpeg)
    except OSError as exc:
        raise CommandFailed(f"--output: {output} cannot be written: {exc.strerror}") from exc
    print(f"frame {newest.frame_id} was saved to {output}")


@app.command(epilog=examples("sightline streams recordings lot", "sightline streams recordings lot --save clips"))
def recordings(
    stream_id: Id,
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the finished clips to this folder.", show_default=False)
    ] = None,
    url: Url = None,
) -> None:
    """Print the file names of the finished clips, the newest first. A clip that is already saved is not saved again."""
    from serve_app.client import NotFoundError

    with connect(url) as client:
        for clip in (recording.clip for recording in client.streams.recordings(stream_id) if recording.clip):
            if save is not None:
                try:
                    save.mkdir(parents=True, exist_ok=True)
                    if not (save / clip).exists():
                        client.streams.save_recording(stream_id, clip, save / clip)
                except NotFoundError:
                    continue  # the recorder has just deleted its oldest clip
                except OSError as exc:
                    raise CommandFailed(f"--save: {save / clip} cannot be written: {exc.strerror}") from exc
            print(clip if save is None else save / clip, flush=True)


@app.command(epilog=examples("sightline streams regions lot", "sightline streams regions lot regions.yaml"))
def regions(
    stream_id: Id,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A YAML file with `zones:` and `lines:`.", show_default=False)
    ] = None,
    url: Url = None,
) -> None:
    """Print the zones and lines of a stream as YAML. If a file is named, change them first."""
    import yaml

    with connect(url) as client:
        if file is not None:
            try:
                client.streams.set_regions(stream_id, yaml.safe_load(file.read_bytes()))
            except (OSError, yaml.YAMLError) as exc:
                raise CommandFailed(f"{file} cannot be read as YAML ({type(exc).__name__})") from exc
        current = client.streams.regions(stream_id)
    print(yaml.safe_dump(current.model_dump(mode="json"), sort_keys=False), end="")


@app.command(epilog=examples("sightline streams pause lot"))
def pause(ids: Ids, url: Url = None) -> None:
    """Close the source of each named stream until it is resumed."""
    _each(ids, url, lambda client, stream_id: f"is {client.streams.pause(stream_id).state}")


@app.command(epilog=examples("sightline streams resume lot"))
def resume(ids: Ids, url: Url = None) -> None:
    """Reopen the source of each named stream."""
    _each(ids, url, lambda client, stream_id: f"is {client.streams.resume(stream_id).state}")


@app.command(epilog=examples("sightline streams stop lot yard"))
def stop(ids: Ids, url: Url = None) -> None:
    """Stop and delete each named stream."""

    def delete(client: Client, stream_id: str) -> str:
        client.streams.delete(stream_id)
        return "stopped"

    _each(ids, url, delete)


def _each(ids: list[str], url: str | None, change: Callable[[Client, str], str]) -> None:
    with connect(url) as client:
        for stream_id in ids:
            print(f"stream {stream_id} {change(client, stream_id)}")

#!/usr/bin/env python3
"""Start, list, watch and stop streams of a running Sightline application.

scripts/streams.py start --id lot --source FILE_OR_URI     a file, or an rtsp://, http:// or https:// address
scripts/streams.py list
scripts/streams.py watch lot                               live, until Ctrl-C or the stream's end
scripts/streams.py stop lot
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.prefix == sys.base_prefix and (ROOT / ".venv/bin/python").exists():  # started outside the environment
    os.execv(ROOT / ".venv/bin/python", [str(ROOT / ".venv/bin/python"), __file__, *sys.argv[1:]])

import ray
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from serve_app.config import StreamArgs
from serve_app.errors import InvalidParameter, NotFound, ServeAppError, SourceError
from serve_app.stream_schemas import StreamSpec, StreamStatus
from serve_app.streams import worker
from serve_app.streams.source import parse_source

STATUS_TIMEOUT_S = 30.0  # its process may be starting
WATCH_PERIOD_S = 0.5


def main() -> None:
    """Run one command; exits 1 with a sentence when it is refused."""
    options = parse_arguments()
    try:
        ray.init(address="auto", namespace=worker.NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError:
        sys.exit("no Ray cluster is running here: start one with scripts/serve")
    try:
        options.run(options)
    except ServeAppError as exc:
        sys.exit(exc.detail)
    except ray.exceptions.RayError as exc:
        sys.exit(f"the stream does not answer: {type(exc).__name__}")
    except KeyboardInterrupt:
        pass


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    start_parser = commands.add_parser("start", help="start a stream")
    start_parser.add_argument("--id", required=True, help="letters, digits, - and _")
    start_parser.add_argument("--source", required=True, help="files only below SERVE_APP_MEDIA_DIRS")
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
    start_parser.add_argument("--application", default="sightline", help="its name in the Serve config")
    start_parser.set_defaults(run=start)

    commands.add_parser("list", help="every running stream").set_defaults(run=list_streams)
    for name, run, summary in (("watch", watch, "a stream's state and detections, live"), ("stop", stop, "end it")):
        command = commands.add_parser(name, help=summary)
        command.add_argument("id")
        command.set_defaults(run=run)
    return parser.parse_args()


def start(options: argparse.Namespace) -> None:
    """Start a stream and say so once its first frame is there; exits 1 when it fails."""
    source = parse_source(options.source, StreamArgs().folders())
    detect = {"confidence": options.confidence, "iou": options.iou, "classes": options.classes}
    wanted = {
        "id": options.id,
        "source": {"uri": source.uri, "loop": options.loop},
        "detect": detect,
        "policy": options.policy,
        "max_fps": options.max_fps,
    }
    try:
        spec = StreamSpec.model_validate(wanted)
    except ValidationError as exc:
        raise InvalidParameter("; ".join(f"--{e['loc'][-1]}: {e['msg']}" for e in exc.errors())) from exc
    worker.start(spec, source, options.application)
    with Console().status(f"starting stream {options.id}"):
        while (now := status(options.id)).state == "starting":
            time.sleep(WATCH_PERIOD_S)
    if now.state == "failed":
        worker.stop(options.id)
        raise SourceError(f"stream {options.id}: {now.detail}")
    print(f"stream {options.id} is {now.state}: watch it with scripts/streams.py watch {options.id}")


def list_streams(options: argparse.Namespace) -> None:
    """A table with a line a stream."""
    streams = []
    for stream_id in worker.stream_ids():
        try:
            streams.append(status(stream_id))
        except NotFound:
            pass  # it ended meanwhile
        except ray.exceptions.RayError as exc:
            print(f"stream {stream_id} does not answer: {type(exc).__name__}", file=sys.stderr)
    Console().print(status_table(streams))


def watch(options: argparse.Namespace) -> None:
    """The stream's line and its latest detections, renewed until it is over."""
    with Live(refresh_per_second=4) as live:
        while True:
            now = status(options.id)
            live.update(Group(status_table([now]), detection_table(now)))
            if now.state in {"completed", "failed"}:
                return
            time.sleep(WATCH_PERIOD_S)


def stop(options: argparse.Namespace) -> None:
    """End the stream."""
    worker.stop(options.id)
    print(f"stream {options.id} stopped")


def status(stream_id: str) -> StreamStatus:
    """What the stream says of itself."""
    return StreamStatus(**ray.get(worker.find(stream_id).status.remote(), timeout=STATUS_TIMEOUT_S))


def status_table(streams: list[StreamStatus]) -> Table:
    """A line a stream."""
    table = Table(box=SIMPLE, padding=0)
    for heading in ("stream", "state", "source", "camera fps", "processed", "dropped", "frames", "drops", "age"):
        table.add_column(heading, overflow="fold")
    for stream in streams:
        state = f"{stream.state}: {stream.detail}" if stream.detail else stream.state
        dropped = ", ".join(f"{count} {reason}" for reason, count in stream.dropped.items()) or "0"
        age = f"{stream.latest.age_s:.2f} s" if stream.latest else ""
        fps = [f"{rate:.1f}" for rate in (stream.camera_fps, stream.processed_fps, stream.dropped_fps)]
        table.add_row(stream.stream_id, state, stream.source, *fps, str(stream.processed), dropped, age)
    return table


def detection_table(stream: StreamStatus) -> Table:
    """The detections of the latest frame."""
    latest = stream.latest
    table = Table("label", "confidence", "x1", "y1", "x2", "y2", title=f"frame {latest.frame_id}" if latest else None)
    for detection in latest.detections if latest else []:
        box = detection.bbox
        corners = [f"{side:.0f}" for side in (box.x1, box.y1, box.x2, box.y2)]
        table.add_row(detection.label, f"{detection.confidence:.2f}", *corners)
    return table


if __name__ == "__main__":
    main()

"""Serve the embedded model, send images, run a stream and a job, check the answers against ground truth, and stop.

The demo needs no network. If YOLO26n can be downloaded, the demo also serves YOLO26n and detects people and cars.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scripts.codes import published, samples
from scripts.codes.scenes import Scene
from scripts.codes.score import Guess, Score, score
from scripts.codes.surfaces import package_files
from scripts.codes.symbols import LABELS
from scripts.launch import ROOT, Server, StartFailed, StopFailed, is_ready, make_folder, start, stop_on_signals
from scripts.trials.cluster import Cluster
from serve_app.client import Client, SightlineError
from serve_app.config import ModelArgs
from serve_app.images.drawing import encode_jpeg
from serve_app.schemas.jobs import AT_REST, JobResult

FOLDER = ROOT / "build/demo"
PICTURES, CLIENTS, FRAMES = 48, 8, 200
STREAM, JOB = "belt", "parcels"
STREAM_TIMEOUT_S = 180
JOB_TIMEOUT_S = 180
PUBLISHED_TIMEOUT_S = 120  # long, because the server first exports the model
MIN_FOUND = 0.98  # share of codes that must be found; high, because all codes are large and clean
MIN_FRAMES = FRAMES // 20  # low, because polling gets only the latest result and so misses many frames

console = Console(soft_wrap=True, highlight=False)


def main() -> None:
    """Run the demo, and exit with status 0 if the detections were right."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the service and the stream running")
    options = parser.parse_args()
    stop_on_signals()
    try:
        problem = run(keep=options.keep)
    except (StartFailed, StopFailed) as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    if problem:
        sys.exit(problem)


def run(*, keep: bool) -> str | None:
    """Run the demo. Return a description of the first problem, or None."""
    make_folder(FOLDER)
    pictures, frames = make_media()
    weights = fetch_published()
    server = start(save_config(weights), FOLDER / "serve.log")
    keeps_running = False
    try:
        with console.status(f"starting Ray Serve on {server.url}"):
            server.wait_until_ready()
        if weights:
            wait_for_published(server)
        dashboard = server.dashboard_url or "(not found in the log)"
        of_pictures, pictures_per_s = post_pictures(server, pictures)
        of_frames, frames_per_s = run_stream(server, frames, keep=keep)
        of_items = run_job(server, pictures, keep=keep)
        console.print(result_table({"pictures": of_pictures, "frames": of_frames, "items of a job": of_items}))
        console.print(f"images: {pictures_per_s:.0f} per second from {CLIENTS} clients; stream: {frames_per_s:.0f} fps")
        show_annotated(
            server.client, {"parcels": encode_jpeg(pictures[0].pixels), "belt": encode_jpeg(frames[-1].pixels)}
        )
        if weights:
            show_published(server)
        if keep:
            console.print(f"console  {server.url}/console")
            console.print(f"docs     {server.url}/docs")
            console.print(f"watch    {dashboard} (for its token run .venv/bin/ray get-auth-token)")
            console.print(f"stream   .venv/bin/sightline streams watch {STREAM} --url {server.url}")
            console.print(f"job      .venv/bin/sightline jobs show {JOB} --url {server.url}")
            console.print(f"boxes    {server.url}/streams/{STREAM}/preview.mjpeg")
            console.print(f"stop     kill {server.process.pid}")
        else:
            console.print(f"scripts/demo --keep leaves the service and Ray's dashboard ({dashboard}) running")
        keeps_running = keep
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        if not keeps_running:
            with console.status("stopping"):
                server.stop()
    return (
        verdict(of_pictures, "pictures", PICTURES)
        or verdict(of_frames, "frames", MIN_FRAMES)
        or verdict(of_items, "items", PICTURES)
    )


def make_media() -> tuple[list[Scene], list[Scene]]:
    """Generate the images, and the frames of a video of parcels on a conveyor belt.

    Save the first image, and save the frames as a video.
    """
    with progress() as bar:
        pictures = list(bar.track(map(samples.picture, range(PICTURES)), PICTURES, description="making images"))
        frames = list(bar.track(map(samples.belt_frame, range(FRAMES)), FRAMES, description="making a video"))
    (FOLDER / "parcels.jpg").write_bytes(encode_jpeg(pictures[0].pixels))
    part = samples.save_video(FOLDER / f"part-{os.getpid()}.mp4", frames)
    part.rename(FOLDER / "belt.mp4")  # replace the video atomically, because an earlier demo may still be reading it
    return pictures, frames


def fetch_published() -> Path | None:
    """Return the path of YOLO26n's weights. If they cannot be downloaded, print the reason and return None."""
    try:
        with console.status(f"looking for {published.NAME}.pt"):
            return published.fetch(ModelArgs().cache_dir.expanduser())
    except published.NotFetched as exc:
        console.print(
            f"{published.NAME}.pt cannot be fetched ({exc}); the demo continues without detecting people and cars"
        )
        return None


def save_config(weights: Path | None) -> Path:
    """Save a config that serves the embedded model and, if ``weights`` is not None, YOLO26n."""
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    (codes,) = config["applications"]
    codes["args"] = {"model": {"weights": "codes"}, "streams": {"media_dirs": str(FOLDER)}}
    if weights:
        args = {
            "model": {"weights": str(weights), "weights_sha256": published.SHA256, "cache_dir": str(weights.parent)}
        }
        # YOLO26n requests no CPU from Ray, because a machine may have only one core. The demo uses one model at a time.
        free = [one | {"ray_actor_options": {"num_cpus": 0}} for one in codes["deployments"]]
        beside = {"name": published.NAME, "route_prefix": f"/{published.NAME}", "args": args, "deployments": free}
        config["applications"].append(codes | beside)
    path = FOLDER / "demo.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def post_pictures(server: Server, pictures: list[Scene]) -> tuple[list[Score], float]:
    """Send all images over HTTP from several clients. Return their scores and the images per second."""

    def post(scene: Scene) -> Score:
        return score(scene, [Guess.of(found) for found in server.client.detect(encode_jpeg(scene.pixels))])

    started_at_s = time.monotonic()
    clients = ThreadPoolExecutor(CLIENTS)
    try:
        with progress() as bar:
            answers = clients.map(post, pictures)
            scores = list(bar.track(answers, len(pictures), description=f"posting images from {CLIENTS} clients"))
    finally:
        clients.shutdown(cancel_futures=True)
    return scores, len(pictures) / (time.monotonic() - started_at_s)


def run_stream(server: Server, frames: list[Scene], *, keep: bool) -> tuple[list[Score], float]:
    """Run the video of the belt as a stream that processes every frame. Return the scores of some frames, and the fps.

    A frame is not scored if a newer result replaced the frame's result between two polls.
    """
    spec = {"id": STREAM, "source": {"uri": str(FOLDER / "belt.mp4"), "loop": keep}}
    server.client.streams.create(spec)
    scores: dict[int, Score] = {}
    fps = 0.0
    expires_at_s = time.monotonic() + STREAM_TIMEOUT_S
    with progress() as bar:
        task = bar.add_task(f"stream {STREAM}: frames", total=FRAMES)
        while True:
            status = server.client.streams.status(STREAM)
            latest = status.latest
            if latest and latest.frame_id not in scores:
                guesses = [Guess.of(found) for found in latest.detections]
                scores[latest.frame_id] = score(frames[latest.frame_id % FRAMES], guesses)
            bar.update(task, completed=min(status.processed, FRAMES))
            if status.processed >= FRAMES or status.state == "completed":
                break
            if status.state == "failed" or time.monotonic() > expires_at_s:
                reason = status.detail or f"not complete after {STREAM_TIMEOUT_S} s"
                sys.exit(f"the stream is {status.state} ({reason}) and has dropped {status.dropped or 'no frames'}")
            fps = status.processed_fps
            time.sleep(0.01)
    if status.dropped or status.processed < FRAMES:  # a stream from a file must not drop frames
        sys.exit(
            f"the stream processed {status.processed} of {FRAMES} frames and dropped {status.dropped or 'no frames'}"
        )
    if not keep:
        server.client.streams.delete(STREAM)
    return list(scores.values()), fps


def run_job(server: Server, pictures: list[Scene], *, keep: bool) -> list[Score]:
    """Run a job over all images, kill its runner in the middle, and return the scores of its results."""
    folder = FOLDER / "pictures"
    folder.mkdir(exist_ok=True)
    for number, scene in enumerate(pictures):
        (folder / f"{number:02}.jpg").write_bytes(encode_jpeg(scene.pixels))
    server.client.jobs.create({"id": JOB, "source": {"type": "files", "path": str(folder)}})
    killed = False
    expires_at_s = time.monotonic() + JOB_TIMEOUT_S
    with progress() as bar:
        task = bar.add_task(f"job {JOB}: images", total=PICTURES)
        while (job := server.client.jobs.status(JOB)).state not in AT_REST:
            bar.update(task, completed=job.succeeded)
            if job.succeeded and not killed:
                Cluster(server.url, server.process.pid).kill_one("JobRunner")
                bar.update(task, description=f"job {JOB}: its runner was killed")
                killed = True
            if time.monotonic() > expires_at_s:
                sys.exit(f"the job is {job.state} ({job.detail}) after {JOB_TIMEOUT_S} s: {job.succeeded} succeeded")
            time.sleep(0.05)
        bar.update(task, completed=job.succeeded)
    if job.state != "completed" or job.failed:
        sys.exit(f"the job is {job.state} ({job.detail}), and these items failed: {job.errors}")
    found = [item for item in server.client.jobs.items(JOB) if isinstance(item, JobResult)]
    if not keep:
        server.client.jobs.delete(JOB)
    return [score(pictures[int(Path(item.name).stem)], [Guess.of(one) for one in item.detections]) for item in found]


def result_table(scores: dict[str, list[Score]]) -> Table:
    """Return a table with the numbers of found codes, missed codes and false positives for each label."""
    table = Table("", "codes", "found", "missed", "false positives", box=SIMPLE, title="checked against ground truth")
    for title, some in scores.items():
        for label in LABELS:
            found, missed, false = count(some, label)
            table.add_row(f"{len(some)} {title}: {label}", str(found + missed), str(found), str(missed), str(false))
    return table


def count(scores: Sequence[Score], label: str) -> tuple[int, int, int]:
    """Return the numbers of found codes, missed codes and false positives with this label."""
    return (
        sum(truth.label == label for one in scores for truth, _ in one.found),
        sum(truth.label == label for one in scores for truth in one.missed),
        sum(guess.label == label for one in scores for guess in one.false),
    )


def verdict(scores: list[Score], title: str, least: int) -> str | None:
    """Return a description of the problem if the scores are too low, or None if they are not."""
    if len(scores) < least:
        return f"only {len(scores)} {title} were answered in time to be scored; {least} are needed"
    found, missed, false = map(sum, zip(*(count(scores, label) for label in LABELS), strict=True))
    if not found or found < MIN_FOUND * (found + missed) or false > (1 - MIN_FOUND) * found:
        return f"wrong answers: {missed} of {found + missed} codes in {title} were missed; {false} false positives"
    return None


def show_annotated(client: Client, pictures: dict[str, bytes]) -> None:
    """Let the service draw boxes on the images, and save the results."""
    for name, data in pictures.items():
        path = FOLDER / f"{name}-found.jpg"
        path.write_bytes(client.annotate(data))
        console.print(f"image  {path}")


def wait_for_published(server: Server) -> None:
    """Wait up to 120 s for the export of YOLO26n, because the export would slow down the following measurements."""
    expires_at_s = time.monotonic() + PUBLISHED_TIMEOUT_S
    with console.status(f"exporting {published.NAME}"):
        while not is_ready(f"{server.url}/{published.NAME}") and time.monotonic() < expires_at_s:
            time.sleep(0.5)


def show_published(server: Server) -> None:
    """Print what YOLO26n finds in the photographs of the Ultralytics package, or why it is not served."""
    try:
        photographs = {path.stem: path.read_bytes() for path in package_files("ultralytics/assets")}
        with Client(f"{server.url}/{published.NAME}") as client:
            for name, data in photographs.items():
                labels = Counter(client.detect(data).labels)
                console.print(f"{published.NAME}, {name}: " + ", ".join(f"{n} {label}" for label, n in labels.items()))
            show_annotated(client, photographs)
    except SightlineError as exc:
        console.print(f"{published.NAME} was not served ({exc}); the demo continues without detecting people and cars")


def progress() -> Progress:
    """Return a ``Progress`` that shows one bar for each task."""
    columns = TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


if __name__ == "__main__":
    main()

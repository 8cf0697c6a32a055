"""Compare the throughput of streams with that of the bare engine, or measure the age of the streams' results.

The age of a result is the time from the capture of its frame to the result. It is measured while the streams send twice
as many frames as the engine can process.

python -m scripts.benchmark.streams -m MODEL --size 768x432 1920x1080    compare the throughput, at two sizes
python -m scripts.benchmark.streams -m MODEL --max-fps 1                 measure the CPU of streams that are limited
python -m scripts.benchmark.streams -m MODEL --age 20                    measure ages, and save build/bench/age.png
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import matplotlib as mpl
import numpy as np
import yaml
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scripts.benchmark import ceiling
from scripts.benchmark.compiled import Question, ask
from scripts.benchmark.options import benchmark_parser, model_section
from scripts.benchmark.rounds import machine
from scripts.benchmark.usage import Usage, memory_mib
from scripts.benchmark.videos import save_belt, size_of, sized
from scripts.launch import ROOT, Server, start, stop_on_signals
from serve_app.client import AsyncClient, FrameResult, StreamEvent

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set before this import

FOLDER = ROOT / "build/bench"
_WARM_UP_S = 5.0
_STREAM_PROCESS = "StreamWorker"
_MEMORY_INTERVAL_S = 10.0
_SETTLED_MIN = 1.0
console = Console(width=140)


def main() -> None:
    """Run the measurement and show the result."""
    stop_on_signals()
    parser = benchmark_parser(__doc__, interval_ms=20_000)
    parser.add_argument(
        "--video", type=Path, help="the video that every stream plays in a loop (default: drawn parcels on a belt)"
    )
    parser.add_argument(
        "--size",
        nargs="+",
        default=[],
        metavar="WIDTHxHEIGHT",
        help="encode the video again at these sizes, and measure each of them (default: the video as it is)",
    )
    parser.add_argument(
        "--max-fps",
        type=float,
        help="value of the streams' setting max_fps; the video then plays at its own speed (default: no limit)",
    )
    parser.add_argument("--streams", type=int, default=4, help="number of streams (default: %(default)s)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        help="number of times to measure the engine and the streams (default: %(default)s)",
    )
    parser.add_argument(
        "--age",
        type=float,
        metavar="MINUTES",
        help="measure the age of results instead of the throughput, for this many minutes",
    )
    parser.add_argument(
        "--profile-export-file", type=Path, default=FOLDER / "streams.json", help="file for the results of throughput"
    )
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    model, duration_s = model_section(options), options.measurement_interval / 1e3
    video = options.video.resolve() if options.video else save_belt(FOLDER)
    videos = [sized(video, size, FOLDER) for size in options.size] or [video]
    if options.age:
        show_ages(watch_ages(model, videos[0], options.age * 60))
        return
    result = measure_shares(model, videos, options.streams, options.rounds, duration_s, options.max_fps)
    options.profile_export_file.parent.mkdir(parents=True, exist_ok=True)
    options.profile_export_file.write_text(json.dumps(result, indent=1))
    show_shares(result)


@contextmanager
def serving(model: dict[str, Any], folders: set[Path]) -> Iterator[Server]:
    """Serve configs/local.yaml with this model, and allow streams to read these folders."""
    config = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    (application,) = config["applications"]
    application["args"] = {"model": model, "streams": {"media_dirs": ":".join(map(str, folders))}}
    path = FOLDER / "streams.yaml"
    path.write_text(yaml.safe_dump(config))
    server = start(path, FOLDER / "streams.log")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def start_streams(server: Server, video: Path, count: int, policy: str, max_fps: float | None = None) -> None:
    """Start ``count`` streams of the video, and wait until each has processed 5 frames."""
    for number in range(count):
        spec = {"id": f"s{number}", "source": {"uri": str(video), "loop": True}, "policy": policy, "degrade": True}
        server.client.streams.create(spec | ({"max_fps": max_fps} if max_fps else {}))
    while min(stream.processed for stream in server.client.streams.list()) < 5:
        time.sleep(0.5)


def measure_shares(
    model: dict[str, Any], videos: list[Path], count: int, rounds: int, duration_s: float, max_fps: float | None
) -> dict[str, Any]:
    """Measure the bare engine and the streams of each video in turn. Return the results, which can be saved as JSON.

    With ``max_fps``, the videos play at their own speed, and the engine is not measured.
    """
    computed = ask(Question(model=model))
    sizes = Counter(size_of(video) for video in videos)
    result = {**machine(), "date": time.strftime("%Y-%m-%d"), "model": model, "computed": dataclasses.asdict(computed)}
    result |= {"streams": count, "max_fps": max_fps, "ceiling": [], "measurements": []}
    for number in range(rounds):
        if not max_fps:
            result["ceiling"].append(dataclasses.asdict(ceiling.measure(model, duration_s, sizes)))
        with serving(model, {video.parent for video in videos}) as server:
            for video in videos[:: -1 if number % 2 else 1]:
                start_streams(server, video, count, "drop_oldest" if max_fps else "wait", max_fps)
                time.sleep(_WARM_UP_S)
                frames, usage = count_frames(server), Usage.of(server.process.pid)
                time.sleep(duration_s)
                done, after = count_frames(server) - frames, Usage.of(server.process.pid)
                took_s, used = after.at_s - usage.at_s, after.since(usage)
                result["measurements"].append(
                    {
                        "round": number,
                        "video": video.name,
                        "size": "x".join(map(str, size_of(video))),
                        "frames_per_s": done / took_s,
                        "cores_by_process": {name: cpu_s / took_s for name, cpu_s in used.most_common()},
                    }
                )
                for stream in server.client.streams.list():
                    server.client.streams.delete(stream.stream_id)
    return result


def show_shares(result: dict[str, Any]) -> None:
    """Print the streams' throughput, its share of the bare engine's throughput, and the CPU time by process."""
    computed = result["computed"]
    title = f"{computed['file']}, {computed['precision']}, {result['streams']} streams"
    console.print(f"model inputs (height x width): {', '.join(computed['input_shapes'])}")
    table = Table(
        "round", "video", "engine, images/s", "streams, frames/s", "share", "CPU ms per frame", "cores per stream",
        box=SIMPLE, title=title,
    )  # fmt: skip
    for one in result["measurements"]:
        engine = result["ceiling"][one["round"]]["images_per_s"] if result["ceiling"] else None
        fps, cores = one["frames_per_s"], one["cores_by_process"]
        table.add_row(
            str(one["round"] + 1), f"{one['video']} ({one['size']})", f"{engine:.1f}" if engine else "", f"{fps:.1f}",
            f"{fps / engine:.2f}" if engine else "", f"{sum(cores.values()) / max(fps, 1e-9) * 1e3:.1f}",
            f"{cores.get(_STREAM_PROCESS, 0.0) / result['streams']:.3f}",
        )  # fmt: skip
    console.print(table)
    last = result["measurements"][-1]
    for name, used in list(last["cores_by_process"].items())[:6]:
        console.print(
            f"  {name:24} {used:5.2f} cores, {used / max(last['frames_per_s'], 1e-9) * 1e3:6.2f} ms per frame"
        )


def count_frames(server: Server) -> int:
    """Return the number of frames that all streams have processed so far."""
    return sum(stream.processed for stream in server.client.streams.list())


@dataclass
class Ages:
    """The ages of all results, and the memory of the server, during the measurement."""

    at_s: list[float] = field(default_factory=list)  # when each result arrived, in seconds since the start
    age_s: list[float] = field(default_factory=list)
    memory: list[tuple[float, Counter[str]]] = field(
        default_factory=list
    )  # (time since the start in s, MiB by process name)


def watch_ages(model: dict[str, Any], video: Path, duration_s: float) -> Ages:
    """Record the ages of all results of all streams, and the memory of the server."""
    capacity_fps = ceiling.measure(model, 5.0).images_per_s
    with av.open(str(video)) as container:
        fps = float(container.streams.video[0].average_rate or 25)
    count = math.ceil(2 * capacity_fps / fps)
    console.print(f"the engine processes {capacity_fps:.0f} images/s; starting {count} streams of {fps:.0f} fps")
    with serving(model, {video.parent}) as server:
        start_streams(server, video, count, "drop_oldest")
        return asyncio.run(_watch(server, count, duration_s))


async def _watch(server: Server, count: int, duration_s: float) -> Ages:
    ages, began_at_s = Ages(), time.monotonic()

    async def follow(client: AsyncClient, number: int) -> None:
        async for event in client.streams.events(f"s{number}", ("result",)):
            if isinstance(event, StreamEvent) and isinstance(event.data, FrameResult):
                ages.at_s.append(time.monotonic() - began_at_s)
                ages.age_s.append(event.data.age_s)

    async with AsyncClient(server.url) as client:
        followers = [asyncio.create_task(follow(client, number)) for number in range(count)]
        with Progress(console=console) as progress:
            task = progress.add_task(f"watching {count} streams", total=duration_s)
            while (at_s := time.monotonic() - began_at_s) < duration_s:
                ages.memory.append((at_s, await asyncio.to_thread(memory_mib, server.process.pid)))
                progress.update(task, completed=at_s)
                await asyncio.sleep(_MEMORY_INTERVAL_S)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    return ages


def show_ages(ages: Ages) -> None:
    """Print how fast the server's memory and the 99th percentile of the results' ages grow. Plot both over time."""
    at_min, age_ms = np.array(ages.at_s) / 60, np.array(ages.age_s) * 1e3
    minutes = np.arange(int(at_min.max()) + (at_min.max() % 1 > 0.5))
    seen = [age_ms[(at_min >= minute) & (at_min < minute + 1)] for minute in minutes]
    p50, p99 = (np.array([np.percentile(one, percentile) for one in seen]) for percentile in (50, 99))
    memory_min = np.array([at_s for at_s, _ in ages.memory]) / 60
    total_mib = np.array([by_name.total() for _, by_name in ages.memory])
    console.print(
        f"{len(age_ms) / at_min.max() / 60:.1f} frames/s; age p50 {np.percentile(age_ms, 50):.0f} ms, "
        f"p99 {np.percentile(age_ms, 99):.0f} ms, p99 by minute from {p99.min():.0f} to {p99.max():.0f} ms"
    )
    if len(minutes) > 2:
        console.print(f"growth of p99: {slope(minutes + 0.5, p99):+.2f} ms per minute")
        growth_mib = slope(memory_min, total_mib)
        console.print(f"growth of memory: {growth_mib:+.2f} MiB per minute, {total_mib[-1]:.0f} MiB at the end")
        for name in ages.memory[-1][1]:
            mib = np.array([by_name[name] for _, by_name in ages.memory])
            console.print(f"  {name:24} {slope(memory_min, mib):+.2f} MiB per minute, {mib[-1]:.0f} MiB at the end")
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    above.plot(minutes + 0.5, p99, marker="o", label="99th percentile")
    above.plot(minutes + 0.5, p50, marker="o", label="median")
    above.set(ylabel="age of results, ms", ylim=(0, None), title="streams that send twice the engine's capacity")
    above.legend()
    below.plot(memory_min, total_mib)
    below.set(xlabel="minutes", ylabel="memory, MiB", ylim=(0, 1.2 * total_mib.max()))
    figure.savefig(FOLDER / "age.png", dpi=120)
    console.print(f"plot: {FOLDER / 'age.png'}")


def slope(at_min: NDArray[Any], values: NDArray[Any]) -> float:
    """Fit a line to the values after the first minute, and return its slope per minute."""
    later = at_min > _SETTLED_MIN
    return float(np.polyfit(at_min[later], values[later], 1)[0])


if __name__ == "__main__":
    main()

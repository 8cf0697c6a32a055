"""Show the results of the benchmark in a table and in plots."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set before this import

Result = dict[str, Any]
OURS = "Sightline"  # the contender's name
WITHOUT_DRIFT = ", drift off"  # the end of its name with drift.enabled: false
_MIN_LABELLED_MS = 0.2


def show(result: Result) -> None:
    """Print what every contender computes, and a table of the results of all rounds."""
    console = Console(width=140)
    if "computed" in result:
        console.print(_computed(result))
    images_per_s, engine_ms = ceiling(result)
    columns = (
        "", "clients", "images/s", "of engine", "p50 ms", "p95", "p99", "extra CPU ms", "batch", "MiB", "failed",
    )  # fmt: skip
    table = Table(*columns, box=SIMPLE, title=f"{result['machine']}, {result['date']}, {result['model']['weights']}")
    latency_ms = np.mean([one["latency_ms"] for one in result["ceiling"]])
    table.add_row(
        "bare engine", "", f"{images_per_s:.1f}", "1.00", f"{latency_ms:.0f} alone", "", "", f"{engine_ms:.1f} in all"
    )
    if best := rectangles(result):
        table.add_row("bare engine, rectangles", "", f"{best[0]:.1f}", f"{best[0] / images_per_s:.2f}")
    for name, concurrency in cases(result):
        row = summary(result, name, concurrency)
        table.add_row(
            name, str(concurrency), f"{row['images_per_s']:.1f}",
            f"{row['images_per_s'] / images_per_s / row['detectors']:.2f}",
            *(f"{row[key]:.0f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{row['cpu_ms_per_image'] - (row['engine_cpu_ms'] or engine_ms):.1f}",
            f"{row['mean_batch_size']:.1f}" if row["mean_batch_size"] else "",
            f"{row['memory_mib']:.0f}", str(row["failed"] or ""),
        )  # fmt: skip
    console.print(table)
    for concurrency in dict.fromkeys(count for name, count in cases(result) if name == OURS + WITHOUT_DRIFT):
        costs = drift_costs_ms(result, concurrency)
        console.print(
            f"drift, {concurrency} clients: {np.mean(costs):.2f} CPU ms per image; "
            f"in each round: {', '.join(f'{cost:.2f}' for cost in costs)}"
        )


def drift_costs_ms(result: Result, concurrency: int) -> list[float]:
    """Return by how much more CPU time an image takes with the drift monitor than without it, in each round.

    The CPU time is that of all processes, without what they use when there are no requests.
    """
    pairs = zip(_of(result, OURS, concurrency), _of(result, OURS + WITHOUT_DRIFT, concurrency), strict=True)
    return [on["cpu_ms_per_image"] - off["cpu_ms_per_image"] for on, off in pairs]


def ceiling(result: Result) -> tuple[float, float]:
    """Return the bare engine's mean images per second and mean CPU milliseconds per image, over all rounds."""
    rounds = result["ceiling"]
    return (
        float(np.mean([one["images_per_s"] for one in rounds])),
        float(np.mean([one["cpu_ms_per_image"] for one in rounds])),
    )


def rectangles(result: Result) -> tuple[float, float] | None:
    """Return the bare engine's means, as ``ceiling``, for rectangles. Return None if the images need squares."""
    rounds = [one for one in result["ceiling"] if one.get("rectangles_per_s")]
    if not rounds:
        return None
    keys = "rectangles_per_s", "rectangles_cpu_ms"
    images_per_s, cpu_ms = (float(np.mean([one[key] for one in rounds])) for key in keys)
    return images_per_s, cpu_ms


def _computed(result: Result) -> Table:
    """Return a table of the file, the precision and the input shapes of the bare engine and of every contender."""
    table = Table("", "file", "precision", "model input (height x width)", box=SIMPLE)
    bare = result["ceiling"][0]
    file = Path(result["model"]["weights"]).name
    table.add_row("bare engine", file, bare["precision"], bare["input_shape"])
    for name, computed in result["computed"].items():
        answered = Counter[str]()
        for one in result["measurements"]:
            answered.update(one["input_shapes"] if one["contender"] == name else {})
        shapes = [shape for shape, _ in answered.most_common()] or computed["input_shapes"]
        table.add_row(name, computed["file"], computed["precision"], ", ".join(shapes))
    return table


def cases(result: Result) -> list[tuple[str, int]]:
    """Return every measured pair of contender and concurrency."""
    return list(dict.fromkeys((one["contender"], one["concurrency"]) for one in sorted(
        result["measurements"], key=lambda one: (one["round"], one["concurrency"])
    ) if one["round"] == 0))  # fmt: skip


def summary(result: Result, name: str, concurrency: int) -> dict[str, Any]:
    """Summarise all rounds of one contender at one concurrency.

    Rates and CPU are means over the rounds. Percentiles are taken over the latencies of all rounds. ``engine_cpu_ms``
    is the bare engine's CPU for rectangles if the contender computes rectangles, else None.
    """
    seen = _of(result, name, concurrency)
    latencies = np.concatenate([one["latencies_ms"] for one in seen])
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]) if len(latencies) else [np.nan] * 3
    batches = [one["mean_batch_size"] for one in seen if one["mean_batch_size"]]
    shapes = {shape for one in seen for shape in one.get("input_shapes", {})}
    engine = rectangles(result) if shapes - {one.get("input_shape") for one in result["ceiling"]} else None
    return {
        "engine_cpu_ms": engine and engine[1],
        "detectors": seen[0]["detectors"],
        "images_per_s": np.mean([one["images_per_s"] for one in seen]),
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "cpu_ms_per_image": np.mean([one["cpu_ms_per_image"] for one in seen]),
        "mean_batch_size": np.mean(batches) if batches else None,
        "memory_mib": max(one["memory_mib"] for one in seen),
        "failed": sum(sum(one["failures"].values()) for one in seen),
    }  # fmt: skip


def _of(result: Result, name: str, concurrency: int) -> list[dict[str, Any]]:
    """Return the measurements of one contender at one concurrency, one for each round."""
    return [one for one in result["measurements"] if (one["contender"], one["concurrency"]) == (name, concurrency)]


def _names(result: Result) -> list[str]:
    return list(dict.fromkeys(name for name, _ in cases(result)))


def _hardest(result: Result) -> list[tuple[str, int]]:
    """Return every contender with its highest concurrency."""
    return list(dict(sorted(cases(result), key=lambda case: case[1])).items())


def save_plots(result: Result, folder: Path) -> list[Path]:
    """Save four plots: throughput, latencies at the highest concurrency, CPU by process, and time by stage."""
    return [_throughput(result, folder), _latencies(result, folder), _cpu(result, folder), _stages(result, folder)]


def _throughput(result: Result, folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.axhline(ceiling(result)[0], color="black", linestyle="--", label="the bare engine")
    for name in _names(result):
        counts = sorted(count for other, count in cases(result) if other == name)
        axes.plot(counts, [summary(result, name, count)["images_per_s"] for count in counts], marker="o", label=name)
    axes.set(xlabel="clients", ylabel="images/s", ylim=(0, None), title=f"{result['machine']}, {result['date']}")
    axes.legend()
    return _save(figure, folder / "throughput.png")


def _latencies(result: Result, folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, most in _hardest(result):
        latencies = np.sort(np.concatenate([one["latencies_ms"] for one in _of(result, name, most)]))
        axes.plot(latencies, np.linspace(0, 100, len(latencies)), label=f"{name}, {most} clients")
    axes.set(xlabel="latency, ms", ylabel="% of answers", xlim=(0, None), ylim=(0, 100))
    axes.legend()
    return _save(figure, folder / "latency.png")


def _cpu(result: Result, folder: Path) -> Path:
    """Plot each contender's CPU by process at its highest concurrency.

    The CPU that Ray uses even without requests is included.
    """
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    hardest = _hardest(result)
    axes.axhline(ceiling(result)[1], color="black", linestyle="--", label="the bare engine")
    colours: dict[str, tuple[float, ...]] = {}
    for place, (name, most) in enumerate(hardest):
        seen = [one["cpu_ms_by_process"] for one in _of(result, name, most)]
        below = 0.0
        for process in dict.fromkeys(process for one in seen for process in one):
            used_ms = float(np.mean([one.get(process, 0.0) for one in seen]))
            colour = colours.get(process, plt.colormaps["tab20"](len(colours)))
            # The legend has no entry for a bar that is too thin to see.
            label = None if process in colours or used_ms < _MIN_LABELLED_MS else process
            if label:
                colours[process] = colour
            axes.bar(place, used_ms, bottom=below, label=label, color=colour)
            below += used_ms
    axes.set_xticks(range(len(hardest)), [f"{name}\n{most} clients" for name, most in hardest])
    axes.set(ylabel="CPU ms per image")
    figure.legend(loc="outside right center", fontsize="small")
    return _save(figure, folder / "cpu.png")


def _stages(result: Result, folder: Path) -> Path:
    """Plot the mean time that each stage of a Sightline request takes."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    ours = [(name, count) for name, count in cases(result) if _of(result, name, count)[0]["stages_ms"]]
    below = np.zeros(len(ours))
    stages = [_stages_ms(_of(result, *case)) for case in ours]
    for stage in stages[0]:
        heights = np.array([case[stage] for case in stages])
        axes.bar(range(len(ours)), heights, bottom=below, label=stage)
        below += heights
    axes.set_xticks(range(len(ours)), [f"{name.removeprefix('Sightline, ')}\n{count} clients" for name, count in ours])
    axes.set(ylabel="ms")
    figure.legend(loc="outside right center", fontsize="small", reverse=True)
    return _save(figure, folder / "stages.png")


def _stages_ms(seen: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean milliseconds by stage, in the order of processing.

    The last two entries are the time between stages, and the time that HTTP and the client take.
    """
    ms = {stage: float(np.mean([one["stages_ms"][stage] for one in seen])) for stage in seen[0]["stages_ms"]}
    total, stages = ms.pop("total"), dict(ms)
    stages["between stages"] = total - sum(ms.values())
    stages["HTTP and client"] = float(np.mean([np.mean(one["latencies_ms"]) for one in seen])) - total
    return stages


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path

"""Compare several results of the benchmark, in one Markdown table for images, one for streams, and one plot.

python -m scripts.benchmark.comparison build/bench/*.json       print the tables, and save build/bench/comparison.png
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from scripts.benchmark.report import OURS, Result, cases, ceiling, rectangles, summary
from scripts.launch import ROOT

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set before this import

_IMAGES = (
    "images", "precision", "bare engine, images/s", "with rectangles", "Sightline, images/s", "of the bare engine",
    "best other server", "times the best other server", "CPU ms per image beyond the engine",
)  # fmt: skip
_STREAMS = ("video", "precision", "streams", "bare engine, images/s", "streams, frames/s", "of the bare engine",
            "CPU ms per frame", "cores per stream process")  # fmt: skip


def main() -> None:
    """Read the files, print the tables, and save the plot."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="results that the benchmarks have saved")
    results = [json.loads(path.read_text()) for path in parser.parse_args().files]
    images = [result for result in results if "pictures" in result]
    streams = [result for result in results if "streams" in result]
    for machine in dict.fromkeys(f"{one['machine']}, {one['date']}, {' '.join(one['flags'])}" for one in results):
        print(machine)
    if images:
        print(markdown(_IMAGES, map(image_row, images)))
        path = ROOT / "build/bench/comparison.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_plot(images, path)
        print(f"plot: {path}")
    if streams:
        print(markdown(_STREAMS, (row for result in streams for row in stream_rows(result))))


def markdown(columns: tuple[str, ...], rows: Any) -> str:
    """Return a Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def image_row(result: Result) -> tuple[str, ...]:
    """Return the row of one result, at its highest number of clients."""
    engine_per_s, engine_ms = ceiling(result)
    best = rectangles(result)
    ours, others = at_most_clients(result)
    name, other = max(others.items(), key=lambda one: one[1]["images_per_s"], default=("", None))
    if other:
        name += f" ({result['computed'][name]['precision']})" if name in result["computed"] else ""
    return (
        _set(result), result["computed"].get(OURS, {}).get("precision", ""),
        f"{engine_per_s:.1f}", f"{best[0]:.1f}" if best else "",
        f"{ours['images_per_s']:.1f}", f"{ours['images_per_s'] / engine_per_s:.2f}",
        f"{name}: {other['images_per_s']:.1f}" if other else "",
        f"{ours['images_per_s'] / other['images_per_s']:.2f}" if other else "",
        f"{ours['cpu_ms_per_image'] - (ours['engine_cpu_ms'] or engine_ms):.1f}",
    )  # fmt: skip


def _set(result: Result) -> str:
    """Return the name of the set of images, and whether Sightline decodes them at a fraction of their size."""
    return str(result["pictures"]["set"]) + (", reduced" if result.get("decode") == "reduced" else "")


def at_most_clients(result: Result) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the summaries of Sightline and of the other servers, each at its highest number of clients."""
    most = max(concurrency for _, concurrency in cases(result))
    names = dict.fromkeys(name for name, concurrency in cases(result) if concurrency == most)
    summaries = {name: summary(result, name, most) for name in names}
    return summaries.pop(OURS), summaries


def stream_rows(result: Result) -> list[tuple[str, ...]]:
    """Return a row for each video of one result of the streams' benchmark. The figures are means over the rounds."""
    engine = [one["images_per_s"] for one in result["ceiling"]]
    rows: list[tuple[str, ...]] = []
    for video in dict.fromkeys(one["video"] for one in result["measurements"]):
        seen = [one for one in result["measurements"] if one["video"] == video]
        fps = float(np.mean([one["frames_per_s"] for one in seen]))
        cores = float(np.mean([sum(one["cores_by_process"].values()) for one in seen]))
        process = float(np.mean([one["cores_by_process"].get("StreamWorker", 0.0) for one in seen]))
        limit = f" at max_fps {result['max_fps']:g}" if result["max_fps"] else ""
        rows.append((
            seen[0]["size"] + limit, result["computed"]["precision"], str(result["streams"]),
            f"{np.mean(engine):.1f}" if engine else "", f"{fps:.1f}",
            f"{np.mean([one['frames_per_s'] / engine[one['round']] for one in seen]):.2f}" if engine else "",
            f"{cores / max(fps, 1e-9) * 1e3:.1f}", f"{process / result['streams']:.3f}",
        ))  # fmt: skip
    return rows


def save_plot(results: list[Result], path: Path) -> None:
    """Plot the throughput of every server relative to the bare engine with squares, a group of bars for each result."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    shares: list[dict[str, float]] = []
    for result in results:
        engine_per_s, best = ceiling(result)[0], rectangles(result)
        ours, others = at_most_clients(result)
        share = {"bare engine with rectangles": best[0] / engine_per_s} if best else {}
        share |= {name: one["images_per_s"] / engine_per_s for name, one in ({OURS: ours} | others).items()}
        shares.append(share)
    names = list(dict.fromkeys(name for share in shares for name in share))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [place for place, share in enumerate(shares) if name in share]
        heights = [shares[place][name] for place in places]
        axes.bar([place + (number - (len(names) - 1) / 2) * width for place in places], heights, width, label=name)
    axes.axhline(1, color="black", linestyle="--", label="bare engine with squares")
    titles = [f"{_set(one)}\n{one['computed'].get(OURS, {}).get('precision', '')}" for one in results]
    axes.set_xticks(range(len(results)), titles)
    axes.set(ylabel="throughput relative to the bare engine")
    figure.legend(loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

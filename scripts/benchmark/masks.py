"""Measure how much CPU time masks take beyond the engine: segmentation beside detection, over HTTP.

python -m scripts.benchmark.masks          measure 5 and 100 objects in an image, and save build/bench/masks.png

One service has a model of each task for each number of objects. The models return constants, and both tasks find the
same boxes. Each round measures each model once. The exit status is 1 if masks take more CPU time than the limits in
this file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.benchmark import ceiling
from scripts.benchmark.contenders import Running, sightline
from scripts.benchmark.load import LoadPlan
from scripts.benchmark.masked import save_model
from scripts.benchmark.pictures import save_photographs
from scripts.benchmark.rounds import idle, machine, measure_load
from scripts.launch import ROOT, stop_on_signals
from serve_app.client import Client
from serve_app.types import Task

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set before this import

FOLDER = ROOT / "build/bench"
LIMITS = {5: 1.3, 100: 3.0}  # by the number of objects: CPU time with masks, relative to the time without masks
_TASKS: tuple[Task, ...] = ("detect", "segment")
_ROUNDS = 3
_CLIENTS = 16
_DURATION_S, _WARM_UP_S, _ENGINE_S = 5.0, 1.5, 3.0


@dataclass
class Case:
    """One model, and what was measured with it."""

    task: Task
    objects: int
    model: dict[str, Any]  # the section of the config
    engine_ms: float = 0.0  # CPU time of the engine alone for an image
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the model in the service."""
        return f"{self.task}-{self.objects}"

    @property
    def extra_ms(self) -> list[float]:
        """The CPU time of an image beyond the engine, in each round."""
        return [seen["cpu_ms_per_image"] - self.engine_ms for seen in self.rounds]


def main() -> None:
    """Run the measurements, print a table, and save a plot."""
    stop_on_signals()
    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures = save_photographs(None, FOLDER / "pictures")
    cases = []
    for objects, task in product(LIMITS, _TASKS):
        weights = save_model(FOLDER / f"{task}-{objects}.onnx", task, objects)
        cases.append(Case(task, objects, {"weights": str(weights), "precision": "fp32"}))
    for case in cases:
        case.engine_ms = ceiling.measure(case.model, _ENGINE_S).cpu_ms_per_image
    first, *others = cases
    with sightline(first.model, FOLDER, models={case.name: case.model for case in others}).run() as running:
        for case in cases:
            _check(case, first, running, next(pictures.iterdir()))
        measure = partial(_measure, running=running, pictures=pictures, first=first, idle_cpu_per_s=idle(running))
        for number in range(_ROUNDS):
            for case in cases[:: -1 if number % 2 else 1]:
                case.rounds.append(measure(case, seed=number))
    console = Console(width=110)
    console.print(_table(cases))
    problems = _problems(cases)
    console.print("\n".join(problems))
    print(f"plot: {_save_plot(cases, FOLDER / 'masks.png')}")
    sys.exit(bool(problems))


def _check(case: Case, first: Case, running: Running, picture: Path) -> None:
    """Exit if the model of a case does not find all of its objects, with masks if it segments."""
    with Client(running.url.removesuffix("/detect")) as client:
        found = client.detect(picture, model=None if case is first else case.name)
    if len(found) != case.objects or (found.segments is not None) != (case.task == "segment"):
        sys.exit(f"{case.name}: the answer has {len(found)} objects")


def _measure(
    case: Case, *, running: Running, pictures: Path, first: Case, idle_cpu_per_s: float, seed: int
) -> dict[str, Any]:
    plan = LoadPlan(
        url=running.url if case is first else f"{running.url}?model={case.name}",
        folder=str(pictures),
        concurrency=_CLIENTS,
        duration_s=_DURATION_S,
        warm_up_s=_WARM_UP_S,
        multipart=running.multipart,
        seed=seed,
    )
    seen = measure_load(running, plan, idle_cpu_per_s)
    if seen["failures"]:
        sys.exit(f"{case.name}: some requests failed: {seen['failures']}")
    return seen


def _ratios(cases: list[Case], objects: int) -> list[float]:
    """Return the CPU time with masks relative to the time without, in each round."""
    detect, segment = [case.extra_ms for case in cases if case.objects == objects]
    return [many / few for few, many in zip(detect, segment, strict=True)]


def _problems(cases: list[Case]) -> list[str]:
    problems = []
    for objects, limit in LIMITS.items():
        ratio = float(np.mean(_ratios(cases, objects)))
        if ratio > limit:
            problems.append(f"with {objects} objects, masks take {ratio:.2f} times the CPU time; the limit is {limit}")
    return problems


def _table(cases: list[Case]) -> Table:
    columns = "objects", "task", "images/s", "engine CPU ms", "extra CPU ms", "relative to detect", "limit"
    table = Table(*columns, box=SIMPLE, title=machine()["machine"])
    for case in cases:
        rate = np.mean([seen["images_per_s"] for seen in case.rounds])
        relative = limit = ""
        if case.task == "segment":
            ratios = _ratios(cases, case.objects)
            relative, limit = (
                f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{LIMITS[case.objects]}",
            )
        table.add_row(
            str(case.objects), case.task, f"{rate:.0f}", f"{case.engine_ms:.1f}", f"{np.mean(case.extra_ms):.1f}",
            relative, limit,
        )  # fmt: skip
    return table


def _save_plot(cases: list[Case], path: Path) -> Path:
    """Plot the CPU time of each process for an image without the engine, and the range of the sums over the rounds.

    The bars include what idle processes use, and the sums do not.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for place, case in enumerate(cases):
        below = 0.0
        for number, process in enumerate(("Ingress", "Preprocessor", "Detector")):
            used_ms = float(np.mean([seen["cpu_ms_by_process"][process] for seen in case.rounds]))
            height = used_ms - case.engine_ms * (process == "Detector")
            axes.bar(place, height, bottom=below, color=f"C{number}", label=process if place == 0 else None)
            below += height
        mean_ms, label = float(np.mean(case.extra_ms)), "sum without idle processes" if place == 0 else None
        spread = [[mean_ms - min(case.extra_ms)], [max(case.extra_ms) - mean_ms]]
        axes.errorbar(place, mean_ms, spread, color="black", fmt="o", capsize=4, label=label)
        if case.task == "detect":
            label = "limit" if place == 0 else ""
            axes.hlines(mean_ms * LIMITS[case.objects], place + 0.6, place + 1.4, "red", "dashed", label=label)
    axes.set_xticks(range(len(cases)), [f"{case.task}\n{case.objects} objects" for case in cases])
    axes.set(ylabel="CPU ms per image beyond the engine")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main()

"""The rounds of the benchmark. Each round measures the bare engine, and every server at every concurrency."""

from __future__ import annotations

import dataclasses
import platform
import time
from pathlib import Path
from typing import Any

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.benchmark import ceiling, load
from scripts.benchmark.contenders import Contender, Running
from scripts.benchmark.pictures import sizes
from scripts.benchmark.usage import Usage, memory_mib

_IDLE_S = 5.0  # how long the CPU usage of the idle server is measured
_WARM_UP_S = 3.0


def measure(
    contenders: list[Contender],
    *,
    model: dict[str, Any],
    pictures: Path,
    picture_set: str,
    decode: str,
    concurrencies: list[int],
    duration_s: float,
    rounds: int,
) -> dict[str, Any]:
    """Measure all contenders, and return the results, which can be saved as JSON.

    ``picture_set`` is the name of the set of images in the folder ``pictures``. ``decode`` is Sightline's setting.
    """
    picture_sizes = sizes(pictures)
    result: dict[str, Any] = {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "model": model,
        "pictures": {
            "set": picture_set,
            "count": picture_sizes.total(),
            "sizes": {f"{width}x{height}": count for (width, height), count in picture_sizes.items()},
        },
        "decode": decode,
        "computed": {},
        "ceiling": [],
        "measurements": [],
    }
    columns = TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=rounds * (1 + len(contenders) * len(concurrencies)))
        for contender in contenders:
            progress.update(task, description=f"reading the model of {contender.name}")
            if computed := contender.computed(pictures):
                result["computed"][contender.name] = dataclasses.asdict(computed)
        for number in range(rounds):
            progress.update(task, description=f"round {number + 1}: bare engine")
            result["ceiling"].append(dataclasses.asdict(ceiling.measure(model, duration_s, picture_sizes)))
            progress.advance(task)
            # Reverse the order in every second round, so that a slowdown of the machine affects all servers alike.
            for contender in contenders[:: -1 if number % 2 else 1]:
                progress.update(task, description=f"round {number + 1}: starting {contender.name}")
                with contender.run() as running:
                    idle_cpu_per_s = idle(running)
                    for concurrency in concurrencies:
                        title = f"round {number + 1}: {contender.name}, {concurrency} clients"
                        progress.update(task, description=title)
                        clients = concurrency * contender.detectors
                        plan = load.LoadPlan(
                            url=running.url,
                            folder=str(pictures),
                            concurrency=clients,
                            duration_s=duration_s,
                            warm_up_s=_WARM_UP_S,
                            multipart=running.multipart,
                            seed=number,
                        )
                        seen = measure_load(running, plan, idle_cpu_per_s)
                        case = {"contender": contender.name, "detectors": contender.detectors, "round": number}
                        result["measurements"].append(case | seen)
                        progress.advance(task)
    return result


def idle(running: Running) -> float:
    """Return the CPU seconds per second that the idle server uses."""
    before = Usage.of(running.pid)
    time.sleep(_IDLE_S)
    after = Usage.of(running.pid)
    return after.since(before).total() / (after.at_s - before.at_s)


def measure_load(running: Running, plan: load.LoadPlan, idle_cpu_per_s: float) -> dict[str, Any]:
    """Send the requests of a plan to a server, and return what was measured, without the CPU time of an idle server."""
    edges: list[Usage] = []
    seen = load.run(plan, lambda: edges.append(Usage.of(running.pid)))
    before, after = edges
    by_process = after.since(before)
    cpu_s = by_process.total() - idle_cpu_per_s * (after.at_s - before.at_s)
    images = max(len(seen.latencies_s), 1)
    return {
        "concurrency": plan.concurrency,
        "images_per_s": len(seen.latencies_s) / plan.duration_s,
        "latencies_ms": [round(latency_s * 1e3, 2) for latency_s in seen.latencies_s],
        "failures": seen.failures,
        "cpu_ms_per_image": cpu_s / images * 1e3,
        "idle_cpu_per_s": idle_cpu_per_s,
        "cpu_ms_by_process": {name: used_s / images * 1e3 for name, used_s in by_process.most_common()},
        "stages_ms": seen.stages_ms,
        "input_shapes": seen.input_shapes,
        "mean_batch_size": sum(seen.batch_sizes) / len(seen.batch_sizes) if seen.batch_sizes else None,
        "memory_mib": memory_mib(running.pid).total(),
    }


def machine() -> dict[str, Any]:
    """Return the name of the machine's processor with the number of cores, and its flags that matter to an engine."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    values = {name.strip(): value.strip() for name, _, value in lines}
    flags = [flag for flag in values.get("flags", "").split() if flag.startswith(("amx", "avx512", "avx_vnni"))]
    name = values.get("model name") or platform.processor()
    return {"machine": f"{name}, {psutil.cpu_count()} cores", "flags": flags}

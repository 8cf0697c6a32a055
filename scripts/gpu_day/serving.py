"""Stage: measure HTTP with both models and images of two shapes, and then streams until their results grow old."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from scripts.benchmark import load
from scripts.benchmark.pictures import save_photographs
from scripts.benchmark.usage import Usage
from scripts.gpu_day.models import settings
from scripts.gpu_day.stage import Plan, Record
from scripts.gpu_day.stream_ages import measure_streams
from scripts.gpu_day.usage import watched
from scripts.launch import ROOT, Server, start
from serve_app.deployments.handles import detector_name

SECOND = "untrained"  # the name of the second model in requests
_MEASURED_S = 3.0
_WARM_UP_S = 1.0
_CLIENTS_PER_PROCESS = 32  # one process could not generate the load for a GPU


def run(plan: Plan, record: Record) -> None:
    """Add the start of the service, the throughput of HTTP in each case, and the ages of the streams' results."""
    folder = plan.folder / "serving"
    folder.mkdir(exist_ok=True)
    began_at_s = time.monotonic()
    with serving(plan, folder) as server:
        record.add(
            start_s=round(time.monotonic() - began_at_s, 1), models=[one.model_dump() for one in server.client.models()]
        )
        sets = ("4:3",) if plan.is_small else ("4:3", "16:9")
        for name in sets:
            source = Path(plan.pictures) if plan.pictures else None
            pictures = save_photographs(source, folder / name.replace(":", "to"), name)
            for query in ("", f"?model={SECOND}"):
                for clients in (1, 2) if plan.is_small else (1, 32, 128):
                    seen = measure_clients(server, f"{server.url}/detect{query}", pictures, clients, plan)
                    record.add(pictures=name, model=SECOND if query else "default", clients=clients, **seen)
        measure_streams(plan, server, folder, record)


@contextmanager
def serving(plan: Plan, folder: Path) -> Iterator[Server]:
    """Serve both models with configs/gpu.yaml, or with configs/local.yaml if there is no GPU."""
    on_gpu = bool(torch.cuda.is_available())
    config = yaml.safe_load((ROOT / f"configs/{'gpu' if on_gpu else 'local'}.yaml").read_text())
    (application,) = config["applications"]
    first, second = settings(plan).values()
    keys = {"weights", "engine", "cache_dir", "image_size_px"}
    sections = [one.model_dump(mode="json", include=keys) for one in (first, second)]
    application["args"] |= {
        "model": sections[0], "models": {SECOND: sections[1]}, "streams": {"media_dirs": str(folder)},
    }  # fmt: skip
    (detector,) = [one for one in application["deployments"] if one["name"] == "Detector"]
    detector.pop("autoscaling_config", None)
    detector |= {"num_replicas": 1}
    # The two Detectors share the GPU, but only one of them is measured at a time.
    detector["ray_actor_options"] = {"num_cpus": 1, "num_gpus": 0.5} if on_gpu else {"num_cpus": 0.2}
    application["deployments"].append(detector | {"name": detector_name(SECOND)})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    server = start(path, folder / "service.log", program=[sys.executable, "-P", "-m", "serve_app"])
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def measure_clients(server: Server, url: str, pictures: Path, clients: int, plan: Plan) -> dict[str, Any]:
    """Return the throughput of this many clients, their latencies, and the cores and the time that each part takes."""
    duration_s = plan.duration_s(_MEASURED_S)
    processes = -(-clients // _CLIENTS_PER_PROCESS)
    whole = load.LoadPlan(
        url=url,
        folder=str(pictures),
        concurrency=clients,
        duration_s=duration_s,
        warm_up_s=_WARM_UP_S,
        multipart=False,
    )
    parts = [
        replace(whole, concurrency=clients // processes + (number < clients % processes), seed=1000 * number)
        for number in range(processes)
    ]
    edges: list[Usage] = []
    with watched() as used, ThreadPoolExecutor(processes) as threads:
        first, *others = parts
        running = [threads.submit(load.run, part) for part in others]
        running.append(threads.submit(load.run, first, lambda: edges.append(Usage.of(server.process.pid))))
        seen = [one.result() for one in running]
    latencies_ms = np.concatenate([one.latencies_s for one in seen]) * 1e3
    sizes = [size for one in seen for size in one.batch_sizes]
    before, after = edges
    took_s = after.at_s - before.at_s
    p50, p99 = np.percentile(latencies_ms, [50, 99]) if len(latencies_ms) else (np.nan, np.nan)
    return {
        "images_per_s": round(len(latencies_ms) / duration_s, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "mean_batch_size": round(float(np.mean(sizes or [0])), 2),
        "failures": {name: count for one in seen for name, count in one.failures.items()},
        "stages_ms": {stage: round(ms, 2) for stage, ms in seen[0].stages_ms.items()},
        "input_shapes": list({shape for one in seen for shape in one.input_shapes}),
        "cores_by_process": {name: round(cpu_s / took_s, 3) for name, cpu_s in after.since(before).most_common(8)},
        **used,
    }

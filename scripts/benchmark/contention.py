"""Measure how clients, streams and jobs share an overloaded engine, and how a greedy tenant affects other tenants.

python -m scripts.benchmark.contention -m MODEL --engine sleep      measure, and save build/bench/contention.png
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.benchmark import load
from scripts.benchmark.contenders import sightline
from scripts.benchmark.crowd import crowd
from scripts.benchmark.options import image_benchmark_parser, model_section
from scripts.benchmark.pictures import save_photographs
from scripts.benchmark.simulation import SenderGroup
from scripts.launch import ROOT, ray_address, stop_on_signals

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set before this import

FOLDER = ROOT / "build/bench"
_CLIENTS = (1, 4)
_WARM_UP_S = 3.0
OVERLOAD = [
    *(SenderGroup("stream", f"stream {number}", senders=1) for number in range(16)),
    SenderGroup("job", "job", senders=32),
]
GREEDY = [
    *(SenderGroup("job", f"modest {number}", senders=8) for number in range(3)),
    SenderGroup("job", "greedy", senders=96),
]


def main() -> None:
    """Run the measurements, print a table, and save a plot."""
    stop_on_signals()
    parser = image_benchmark_parser(__doc__, interval_ms=20_000)
    options = parser.parse_args()
    duration_s = options.measurement_interval / 1e3

    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures = save_photographs(options.input_data, FOLDER / "pictures", options.pictures)
    with sightline(model_section(options), FOLDER).run() as running:
        plans = [
            load.LoadPlan(
                url=running.url,
                folder=str(pictures),
                concurrency=clients,
                duration_s=duration_s,
                warm_up_s=_WARM_UP_S,
                multipart=running.multipart,
            )
            for clients in _CLIENTS
        ]
        address = ray_address(running.pid)
        alone = [load.run(plan) for plan in plans]
        with crowd(address, OVERLOAD, len(plans) * (duration_s + _WARM_UP_S + 1)) as shares:
            beside = [load.run(plan) for plan in plans]
        with crowd(address, GREEDY, duration_s) as greedy:
            pass

    table = Table("", "images/s", "p50 ms", "p95", "p99", box=SIMPLE)
    cases = [
        (f"clients: {clients}, {where}", loads[number])
        for number, clients in enumerate(_CLIENTS)
        for where, loads in (("alone", alone), ("beside streams and a job", beside))
    ]
    for name, seen in cases:
        percentiles = (f"{value:.0f}" for value in np.percentile(seen.latencies_s, [50, 95, 99]) * 1e3)
        table.add_row(name, f"{len(seen.latencies_s) / duration_s:.1f}", *percentiles)
    streams = [rate for tenant, rate in shares.items() if tenant.startswith("stream")]
    table.add_row(f"{len(streams)} streams, total", f"{sum(streams):.1f}")
    table.add_row("slowest and fastest stream", f"{min(streams):.2f}, {max(streams):.2f}")
    table.add_row(f"a job with {OVERLOAD[-1].senders} in flight", f"{shares['job']:.1f}")
    for one in GREEDY:
        table.add_row(f"tenant {one.tenant}, {one.senders} in flight", f"{greedy[one.tenant]:.1f}")
    Console(width=100).print(table)

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, seen in cases:
        latencies_ms = np.sort(seen.latencies_s) * 1e3
        axes.plot(latencies_ms, np.linspace(0, 100, len(latencies_ms)), label=name)
    axes.set(xlabel="latency, ms", ylabel="% of answers", xlim=(0, None), ylim=(0, 100))
    axes.legend()
    figure.savefig(FOLDER / "contention.png", dpi=120)
    print(f"plot: {FOLDER / 'contention.png'}")


if __name__ == "__main__":
    main()

"""Measure the throughput at five times the load that the service can handle.

python -m scripts.benchmark.overload

First, find the peak throughput with 8 to 64 clients that each send one request at a time. Then send requests at one,
two and five times that rate, whether or not earlier requests have been answered. The exit status is 1 if the throughput
at five times the rate is below 90 % of the peak.

The load generator runs on the same machine, and needs five times the CPU at five times the rate. A second table
therefore shows the CPU usage of the load generator and of each server process.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.benchmark import load
from scripts.benchmark.contenders import sightline
from scripts.benchmark.options import image_benchmark_parser, model_section
from scripts.benchmark.pictures import save_photographs
from scripts.benchmark.usage import Usage
from scripts.launch import ROOT, stop_on_signals

FOLDER = ROOT / "build/bench"
_CLIENTS = (8, 16, 32, 64)
_RATES = (1.0, 2.0, 5.0)  # multiples of the peak rate
_MIN_SHARE = 0.9  # least throughput at the highest rate, as a share of the peak
_WARM_UP_S = 5.0
_SHOWN = 8  # number of processes in the second table


def main() -> None:
    """Run the measurements and print two tables."""
    stop_on_signals()
    parser = image_benchmark_parser(__doc__, interval_ms=15_000)
    options = parser.parse_args()
    duration_s: float = options.measurement_interval / 1e3

    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures = str(save_photographs(options.input_data, FOLDER / "pictures", options.pictures))
    table = Table("", "answered/s", "p50 ms", "p99 ms", "CPU ms per request", "failed", box=SIMPLE)
    cores: dict[str, Counter[str]] = {}  # cores used, by measurement and process name
    with sightline(model_section(options), FOLDER).run() as running:

        def measure(name: str, clients: int, rate_per_s: float) -> float:
            # Each pair has the usage of the server alone, and the usage of the server and the load generator together.
            # The first pair is from the start of the measurement, and the second pair is from the end.
            edges: list[tuple[Usage, Usage]] = []
            plan = load.LoadPlan(
                url=running.url,
                folder=pictures,
                concurrency=clients,
                duration_s=duration_s,
                warm_up_s=_WARM_UP_S,
                multipart=running.multipart,
                rate_per_s=rate_per_s,
            )
            seen = load.run(plan, lambda: edges.append((Usage.of(running.pid), Usage.of(os.getpid()))))
            answered_per_s = len(seen.latencies_s) / duration_s
            p50, p99 = np.percentile(seen.latencies_s or [np.nan], [50, 99]) * 1e3
            requests = len(seen.latencies_s) + sum(seen.failures.values())
            (server_before, all_before), (server_after, all_after) = edges
            used, all_used = server_after.since(server_before), all_after.since(all_before)
            cpu_ms = used.total() / requests * 1e3
            used["load generator"] = all_used.total() - used.total()
            cores[name] = Counter({process: cpu_s / duration_s for process, cpu_s in used.items()})
            failures = ", ".join(f"{count} × {name}" for name, count in seen.failures.items())
            table.add_row(name, f"{answered_per_s:.1f}", f"{p50:.0f}", f"{p99:.0f}", f"{cpu_ms:.1f}", failures)
            return answered_per_s

        peak_per_s = max(measure(f"{clients} clients", clients, 0.0) for clients in _CLIENTS)
        shares = {rate: measure(f"{rate:g}× the peak rate", 0, rate * peak_per_s) / peak_per_s for rate in _RATES}
    console = Console(width=110)
    console.print(table)
    console.print(_shares(cores))
    for rate, share in shares.items():
        console.print(f"at {rate:g}× the peak rate, the throughput is {share:.2f} of the peak")
    sys.exit(shares[_RATES[-1]] < _MIN_SHARE)


def _shares(cores: dict[str, Counter[str]]) -> Table:
    """Return a table of the number of cores that each process used in each measurement."""
    table = Table("cores kept busy", *cores, box=SIMPLE)
    for process, _ in sum(cores.values(), Counter()).most_common(_SHOWN):
        table.add_row(process, *(f"{used[process]:.2f}" for used in cores.values()))
    return table


if __name__ == "__main__":
    main()

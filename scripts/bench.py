#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Measures Sightline, the bare engine and its peers in one run, one after the other, round by round.

scripts/bench.py                                                     the embedded model
scripts/bench.py -m yolo26n.pt --input-data pictures/                your model, your pictures
scripts/bench.py -m codes --engine null                              the framework alone: an engine that answers at once
scripts/bench.py --engine sleep --detectors 1 2 4 --no-peers         scaling, without needing a core
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scripts.benchmark import report
from scripts.benchmark.contenders import peers, sightline
from scripts.benchmark.pictures import save_photographs
from scripts.benchmark.rounds import measure
from scripts.benchmark.weights import openvino_folder
from scripts.launch import ROOT, stop_on_signals

FOLDER = ROOT / "build/bench"


def main() -> None:
    """Measure, save, show."""
    stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="codes", help="weights, as model.weights (default: %(default)s)")
    parser.add_argument("--engine", default="auto", help="as model.engine (default: %(default)s)")
    parser.add_argument("--concurrency-range", default="1:16:4x", metavar="START:END:STEP",
                        help="clients; a step of 4x multiplies (default: %(default)s)")  # fmt: skip
    parser.add_argument("--measurement-interval", type=float, default=10_000, metavar="MS", help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="every contender is started and measured in each")
    parser.add_argument("--input-data", type=Path, metavar="FOLDER", help="of JPEGs; default: photographs of packages")
    parser.add_argument(
        "--detectors", type=int, nargs="+", default=[1], help="Detectors of ours, with so many clients each"
    )
    parser.add_argument("--no-peers", action="store_true", help="only ours")
    parser.add_argument("--profile-export-file", type=Path, default=FOLDER / "bench.json")
    options = parser.parse_args()

    pictures = save_photographs(options.input_data, FOLDER / "pictures")
    weights = openvino_folder(options.model, FOLDER)
    model = {"weights": str(weights), "engine": options.engine}
    contenders = [sightline(model, FOLDER, detectors=count) for count in options.detectors]
    if not options.no_peers:
        contenders += peers(weights, options.engine, FOLDER)
    result = measure(
        contenders,
        model=model,
        pictures=pictures,
        concurrencies=steps(options.concurrency_range),
        duration_s=options.measurement_interval / 1e3,
        rounds=options.rounds,
    )
    options.profile_export_file.parent.mkdir(parents=True, exist_ok=True)
    options.profile_export_file.write_text(json.dumps(result, indent=1))
    report.show(result)
    for plot in report.save_plots(result, options.profile_export_file.parent):
        print(f"look at {plot}")


def steps(concurrency_range: str) -> list[int]:
    """``1:16:5`` -> 1, 6, 11, 16; ``1:16:4x`` -> 1, 4, 16; ``8`` -> 8."""
    start, end, step = [*concurrency_range.split(":"), concurrency_range.split(":")[0], "1"][:3]
    values, value = [], int(start)
    while value <= int(end):
        values.append(value)
        value = value * int(step[:-1]) if step.endswith("x") else value + int(step)
    return values


if __name__ == "__main__":
    main()

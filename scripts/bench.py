#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Measure Sightline, its engine without a server, and other servers. Every round measures each of them once.

scripts/bench.py                                                     measure the embedded model
scripts/bench.py -m yolo26n.pt --input-data pictures/                measure your model on your images
scripts/bench.py -m yolov8n.pt --precision bf16 --pictures 16:9      measure rectangles, on images of one shape
scripts/bench.py -m codes --engine null                              measure the server alone; the engine does nothing
scripts/bench.py --engine sleep --detectors 1 2 4 --no-peers         measure scaling; the engine sleeps and uses no CPU
scripts/bench.py --engine null --no-peers --without-drift            measure the CPU time that the drift monitor costs
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from scripts.benchmark import report
from scripts.benchmark.contenders import peers, sightline
from scripts.benchmark.options import image_benchmark_parser, model_section
from scripts.benchmark.pictures import save_photographs
from scripts.benchmark.rounds import measure
from scripts.benchmark.weights import openvino_folder
from scripts.launch import ROOT, stop_on_signals
from serve_app.config import JpegDecoding

FOLDER = ROOT / "build/bench"


def main() -> None:
    """Run the benchmark, save the results, and show them."""
    stop_on_signals()
    parser = image_benchmark_parser(__doc__, interval_ms=10_000)
    parser.add_argument("--concurrency-range", default="1:16:4x", metavar="START:END:STEP",
                        help="numbers of clients; STEP may be a factor, such as 4x (default: %(default)s)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds, each of which measures every server")
    parser.add_argument(
        "--detectors",
        type=int,
        nargs="+",
        default=[1],
        help="numbers of Detectors; N Detectors are measured with N times as many clients",
    )
    parser.add_argument("--no-peers", action="store_true", help="do not measure other servers")
    parser.add_argument(
        "--without-drift", action="store_true", help="also measure Sightline with drift.enabled: false, and compare"
    )
    parser.add_argument(
        "--peer-model",
        type=Path,
        metavar="FILE",
        help="model of the other servers (default: the OpenVINO folder that Ultralytics exports from the model)",
    )
    parser.add_argument(
        "--decode",
        default="exact",
        choices=get_args(JpegDecoding),
        help="value of Sightline's setting preprocessor.decode (default: %(default)s)",
    )
    parser.add_argument("--profile-export-file", type=Path, default=FOLDER / "bench.json", help="file for the results")
    options = parser.parse_args()

    pictures = save_photographs(options.input_data, FOLDER / "pictures", options.pictures)
    model = model_section(options)
    contenders = [sightline(model, FOLDER, detectors=count, decode=options.decode) for count in options.detectors]
    if options.without_drift:
        contenders.append(sightline(model, FOLDER, decode=options.decode, drift=False))
    if not options.no_peers:
        weights = options.peer_model.resolve() if options.peer_model else openvino_folder(options.model, FOLDER)
        contenders += peers(weights, model, FOLDER)
    result = measure(
        contenders,
        model=model,
        pictures=pictures,
        picture_set=options.pictures,
        decode=options.decode,
        concurrencies=steps(options.concurrency_range),
        duration_s=options.measurement_interval / 1e3,
        rounds=options.rounds,
    )
    options.profile_export_file.parent.mkdir(parents=True, exist_ok=True)
    options.profile_export_file.write_text(json.dumps(result, indent=1))
    report.show(result)
    for plot in report.save_plots(result, options.profile_export_file.parent):
        print(f"plot: {plot}")


def steps(concurrency_range: str) -> list[int]:
    """Expand a range: ``1:16:5`` to [1, 6, 11, 16], ``1:16:4x`` to [1, 4, 16], and ``8`` to [8]."""
    start, end, step = [*concurrency_range.split(":"), concurrency_range.split(":")[0], "1"][:3]
    values, value = [], int(start)
    while value <= int(end):
        values.append(value)
        value = value * int(step[:-1]) if step.endswith("x") else value + int(step)
    return values


if __name__ == "__main__":
    main()

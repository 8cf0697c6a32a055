"""Check and measure Sightline on a machine with an NVIDIA GPU and no network, within nine minutes.

python -m scripts.gpu_day --weights yolov8n.pt --wheels wheels/      install the wheels, and run all stages
python -m scripts.gpu_day --stages trained serving                   run two stages, with the packages that are there
python -m scripts.gpu_day --small                                    run everything with small numbers, on any machine

Each stage is a process with a time limit. It saves its results after each measurement, so a stage that is stopped loses
only the measurement that was running. ``summary.json`` says how each stage ended. Without CUDA, the numbers are always
small; with --small, the time limits are ten times as long. This module itself needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The time limit of each stage in seconds, in the order in which the stages run.
STAGES = {
    "machine": 30,
    "unit_tests": 50,
    "trained": 110,
    "untrained": 110,
    "serving": 180,
    "tensorrt": 55,
}
_TOTAL_S = 535.0
_SMALL_FACTOR = 10  # with small numbers, what matters is that everything runs, even on a busy machine
_STOP_S = 20.0  # a stage that was told to stop gets this time to stop the service that it has started


def main() -> None:
    """Run the stages, and exit with status 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="codes", help="the trained model (default: the embedded model)")
    parser.add_argument("--input-data", default="", metavar="FOLDER", help="folder of JPEGs (default: drawn scenes)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install these wheels beside the results first")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="the stages to run")
    parser.add_argument("--small", action="store_true", help="use small numbers and models, as without CUDA")
    parser.add_argument("--output", type=Path, default=ROOT / "build/gpu_day", help="folder (default: %(default)s)")
    options = parser.parse_args()
    factor = _SMALL_FACTOR if options.small else 1
    ends_at_s = time.monotonic() + _TOTAL_S * factor
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    path = [str(ROOT), environment.get("PYTHONPATH", "")]
    if options.wheels:
        path.insert(1, install(options.wheels, output / "site"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    environment |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "PYTHONUNBUFFERED": "1"}
    plan: dict[str, object] = {
        "output": str(output),
        "weights": str(Path(options.weights).resolve()) if Path(options.weights).exists() else options.weights,
        "pictures": str(Path(options.input_data).resolve()) if options.input_data else "",
        "small": options.small,
    }
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    ended = {}
    for stage in options.stages:
        began_at_s = time.monotonic()
        limit_s = min(STAGES[stage] * factor, ends_at_s - began_at_s)
        outcome = run(stage, plan, limit_s, environment) if limit_s > 0 else "not started: no time was left"
        ended[stage] = {"outcome": outcome, "took_s": round(time.monotonic() - began_at_s, 1)}
        (output / "summary.json").write_text(json.dumps(ended, indent=1))
        print(f"{stage:12} {ended[stage]['took_s']:6.1f} s  {outcome}", flush=True)
        if outcome != "done":
            print((output / f"{stage}.log").read_text(errors="replace")[-1500:], flush=True)
    sys.exit(any(one["outcome"] != "done" for one in ended.values()))


def install(wheels: Path, site: Path) -> str:
    """Install the wheels into the folder ``site`` without network, and return its path."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, wheels.glob("*.whl"))], check=True)
    return str(site)


def run(stage: str, plan: dict[str, object], limit_s: float, environment: dict[str, str]) -> str:
    """Run a stage, and stop it after ``limit_s`` seconds. Return how it ended: "done" if it succeeded."""
    log = Path(str(plan["output"])) / f"{stage}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.gpu_day.stage", json.dumps(plan | {"stage": stage})],
            cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "done" if status == 0 else f"failed with status {status}: see {log}"


if __name__ == "__main__":
    main()

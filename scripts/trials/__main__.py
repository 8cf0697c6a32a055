"""Trials: what it does when something breaks, or somebody means to break it.

python -m scripts.trials disconnects        a camera's cable is pulled out, 200 times
python -m scripts.trials kills              SIGKILL for every kind of process under clients and a stream, 10 times each
python -m scripts.trials crowd              16 streams, one frozen, one refusing connections, one sending garbage
python -m scripts.trials churn              200 streams come and go
python -m scripts.trials node               a second Ray node with half of the streams dies
python -m scripts.trials hostile            20,000 hostile requests: damaged pictures, bombs, HTTP that is none
python -m scripts.trials scale              a load that steps up and down, held for 75 s: Detectors follow it; a plot

Each starts scripts/serve with the embedded model, says what it saw, and exits 1 when something was wrong. The cameras
are GStreamer's: see scripts/servers.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from scripts.server import StartFailed, StopFailed, stop_on_signals
from scripts.trials.camera import NoCamera, camera
from scripts.trials.churn import churn
from scripts.trials.cluster import Footprint
from scripts.trials.crowd import crowd
from scripts.trials.disconnects import disconnect
from scripts.trials.hostile import hostile
from scripts.trials.kills import VICTIMS, kill
from scripts.trials.loads import HttpLoad, StreamLoad
from scripts.trials.node import SEVERAL_NODES, lose_node
from scripts.trials.scale import Plan, Scaling, scale, scaling_config
from scripts.trials.scale_plot import save_plot
from scripts.trials.stage import (
    FOLDER,
    console,
    honest_picture,
    progress,
    save_camera,
    save_pictures,
    save_video,
    serving,
    small_picture,
)
from serve_app.config import PreprocessorArgs

CROWD_FPS = 1  # of a camera: what 16 send is half of what two cores detect
TIMES = {"disconnects": 200, "kills": 10, "crowd": 120, "churn": 200, "node": 3, "hostile": 20_000, "scale": 75}

RETURN_BAR_S = 2.0
KILL_BARS_S = {"StreamWorker": 10.0, "StreamSupervisor": 10.0, "Detector": 15.0}
SCALE_S = 170.0  # of a trial, about, beside the load that is held
NODE_BAR_S = 30.0  # of which Ray takes 15 to say that a node is dead


def main() -> None:
    """Run one trial; exits 1 when something was wrong."""
    stop_on_signals()
    parser = argparse.ArgumentParser(
        prog="python -m scripts.trials", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=TIMES)
    parser.add_argument(
        "--times", type=int, help="how often (crowd, scale: for how many seconds); the defaults are above"
    )
    parser.add_argument("--streams", type=int, default=16, help="of crowd (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of hostile: the same one sends the same (default: another each time)")
    options = parser.parse_args()
    times = options.times or TIMES[options.trial]
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        problems = run(options.trial, times, options.streams, options.seed)
    except (StartFailed, StopFailed, NoCamera) as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    console.print("\n".join(problems) or "nothing was wrong")
    sys.exit(bool(problems))


def run(trial: str, times: int, count: int, seed: int | None) -> list[str]:
    """One trial; what was wrong. Raises StartFailed, NoCamera."""
    if trial == "scale":
        return run_scale(times)
    if trial == "node":
        os.environ[SEVERAL_NODES] = "1"
    with serving() as cluster, progress(trial, times) as tell:
        match trial:
            case "disconnects":
                with camera(save_pictures()) as port:
                    pulled = disconnect(cluster, port, times, tell)
                late = show("from the cable's return to a result", pulled.away_s, RETURN_BAR_S)
                show_footprints("StreamWorker", pulled.before, pulled.after)
                return pulled.problems + late
            case "kills":
                picture = (save_pictures() / "0.jpg").read_bytes()
                killed = kill(cluster, save_video(), picture, FOLDER / "output", VICTIMS, times, tell)
                late = []
                for victim, deaths in killed.deaths.items():
                    bar_s = KILL_BARS_S.get(victim, float("inf"))
                    late += show(f"SIGKILL of {victim}: to a later frame's result", deaths.away_s, bar_s)
                    show(f"SIGKILL of {victim}: the slowest request", deaths.slowest_s)
                    console.print(f"  cut: {dict(deaths.cut)}; began afterwards and failed: {dict(deaths.failed)}")
                console.print(f"{killed.requests} requests for pictures")
                console.print(f"{killed.frames} frames with a result, {killed.lost} lost in {killed.gaps} gaps")
                return killed.problems + late
            case "crowd":
                with camera(save_pictures(), fps=CROWD_FPS) as port:
                    crowded = crowd(cluster, port, count, times, tell)
                console.print(
                    f"the sound streams: {crowded.captured} frames captured, {crowded.processed} processed, "
                    f"{crowded.dropped} dropped"
                )
                for name, state in crowded.states.items():
                    console.print(f"  {name}: {state}")
                return crowded.problems
            case "churn":
                churned = churn(cluster, save_video(), times, tell)
                show("to create four streams, have a result of each and delete them", churned.took_s)
                for name, before in churned.before.items():
                    show_footprints(name, before, churned.after.get(name))
                return churned.problems
            case "hostile":
                seed = secrets.randbits(32) if seed is None else seed
                console.print(f"--seed {seed}")
                slots = PreprocessorArgs().slots
                attacked = hostile(cluster, seed, times, honest_picture(), slots, save_video(), tell)
                show("an honest request meanwhile", attacked.honest_s)
                for name, before in attacked.before.items():
                    show_footprints(name, before, attacked.after[name])
                for label, number in attacked.answers.most_common():
                    console.print(f"  {number:6} {label}")
                return attacked.problems
            case "node":
                moved = lose_node(cluster, save_video(), honest_picture(), times, tell)
                late = show("from the node's death to a later frame's result", moved.away_s, NODE_BAR_S)
                console.print(f"{moved.requests} requests for pictures")
                console.print(f"{moved.moved} streams were taken over, {moved.lost} frames lost in gaps")
                return moved.problems + late


def run_scale(hold_s: float) -> list[str]:
    """Of pictures over HTTP, then of streams; what was wrong. Raises StartFailed."""
    os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": 4, "CPU": 16})  # logical ones, of the Ray to be started
    bounds = {"least": 1, "most": 4, "low_s": 30.0, "hold_s": hold_s, "downscale_delay_s": 30.0}
    trials: dict[str, Scaling] = {}
    plan = Plan(low=20, high=120, **bounds)
    with (
        serving(scaling_config(max_batch_size=8, plan=plan)) as cluster,
        progress("pictures over HTTP", SCALE_S + hold_s) as tell,
        HttpLoad(f"{cluster.url}/detect", small_picture()) as load,
    ):
        trials["pictures over HTTP: a Detector takes 40/s"] = scale(cluster.detectors, load, plan, tell)
    console.print(f"{load.count} requests for pictures")
    plan = Plan(low=2, high=12, **bounds)  # streams
    with (
        serving(scaling_config(max_batch_size=2, plan=plan)) as cluster,
        progress("streams", SCALE_S + hold_s) as tell,
        StreamLoad(cluster, save_camera()) as streams,
    ):
        trials["12 streams of 2.5 frames/s: a Detector takes 10/s"] = scale(cluster.detectors, streams, plan, tell)
    for title, trial in trials.items():
        up, down = trial.changes(trial.up_at_s, trial.held_at_s), trial.changes(trial.down_at_s, trial.end_s)
        console.print(f"{title}: {plan.most} Detectors {trial.up_s:.0f} s after the step, wanted in turn: {up}")
        console.print(f"  {plan.least} wanted {trial.down_s:.0f} s after the step back, wanted in turn: {down}")
        console.print(f"  while the load was held, a second: {trial.held()}")
    (FOLDER / "scaling.json").write_text(json.dumps({title: asdict(trial) for title, trial in trials.items()}))
    console.print(f"look at {save_plot(trials, FOLDER / 'scaling.png')}")
    return [f"{title}: {problem}" for title, trial in trials.items() for problem in trial.problems]


def show(what: str, seconds: Sequence[float], bar_s: float = float("inf")) -> list[str]:
    """Their median, and the longest; what is wrong when that is above the bar."""
    if seconds:
        console.print(f"{what}: median {np.median(seconds):.2f} s, longest {max(seconds):.2f} s, of {len(seconds)}")
    return [f"{what}: {max(seconds):.2f} s are more than {bar_s:g}"] if seconds and max(seconds) > bar_s else []


def show_footprints(name: str, before: Footprint | None, after: Footprint | None) -> None:
    """What a process held."""
    if before and after:
        console.print(
            f"{name}: {before.descriptors} -> {after.descriptors} descriptors, {before.threads} -> {after.threads} "
            f"threads, {before.memory_mib:.0f} -> {after.memory_mib:.0f} MiB"
        )


if __name__ == "__main__":
    main()

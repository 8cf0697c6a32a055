"""Run each trial with a server and a progress bar, print its results, and return its problems."""

from __future__ import annotations

import json
import os
import secrets
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scripts.benchmark import pictures
from scripts.trials.camera import camera
from scripts.trials.churn import churn
from scripts.trials.cluster import Footprint
from scripts.trials.crowd import crowd
from scripts.trials.disconnects import disconnect
from scripts.trials.drift.run import run_drift
from scripts.trials.field.cases import CASES
from scripts.trials.field.trial import of_kind, table, try_all
from scripts.trials.frigate import frigate, square
from scripts.trials.hostile import hostile
from scripts.trials.job_runs import run_jobs
from scripts.trials.jobs import link_pictures
from scripts.trials.kills import VICTIMS, kill
from scripts.trials.loads import HttpLoad, StreamLoad
from scripts.trials.mixed import SECOND, mix
from scripts.trials.node import SEVERAL_NODES, lose_node
from scripts.trials.reference import save_second_model
from scripts.trials.resize import SPREAD, resize
from scripts.trials.scale import Plan, Scaling, scale, scaling_config
from scripts.trials.scale_plot import save_plot
from scripts.trials.scene_health import scene_health
from scripts.trials.scene_plot import fault_table, harmless_table, save_scene_plot
from scripts.trials.stage import (
    CONFIG,
    FOLDER,
    console,
    honest_picture,
    local_config,
    logging_to,
    progress,
    save_camera,
    save_one_picture,
    save_pictures,
    save_video,
    serving,
    small_picture,
)
from scripts.trials.swap import swap
from serve_app.config import PreprocessorArgs

_CROWD_FPS = 1  # at this frame rate, 16 cameras send half of what two cores can process
_SCALE_S = 170.0  # the approximate duration of the trial, without the time of high load
_RETURN_BAR_S = 2.0
_KILL_BARS_S = {"StreamWorker": 10.0, "StreamSupervisor": 10.0, "Detector": 15.0}
_MOVE_BAR_S = 5.0
_NODE_BAR_S = 30.0  # Ray needs 15 s of this time to declare a node dead
_FRIGATE_BAR_S = 0.09
_FRIGATE_LATE_BAR = 0.005
_JOB_IMAGES = 60  # for each request; four requests are sent per second
_HARMLESS_S = 3600  # of each source: one of its days


def run_disconnects(times: int, _: Namespace) -> list[str]:
    """Measure how long a stream is interrupted when its camera is unplugged."""
    with serving() as cluster, progress("disconnects", times) as tell, camera(save_pictures()) as port:
        pulled = disconnect(cluster, port, times, tell)
    late = _show("from plugging the camera in to a result", pulled.away_s, _RETURN_BAR_S)
    _show_footprints("StreamWorker", pulled.before, pulled.after)
    return pulled.problems + late


def run_kills(times: int, _: Namespace) -> list[str]:
    """Measure the effects of killing each kind of process."""
    picture = (save_pictures() / "0.jpg").read_bytes()
    with serving() as cluster, progress("kills", times * len(VICTIMS)) as tell:
        killed = kill(cluster, save_video(), picture, FOLDER / "output", VICTIMS, times, tell)
    late = []
    for victim, deaths in killed.deaths.items():
        bar_s = _KILL_BARS_S.get(victim, float("inf"))
        late += _show(f"SIGKILL of {victim}: until a later frame's result", deaths.away_s, bar_s)
        _show(f"SIGKILL of {victim}: the slowest request", deaths.slowest_s)
        console.print(f"  failed in flight: {dict(deaths.cut)}; failed when sent after the kill: {dict(deaths.failed)}")
    console.print(f"{killed.requests} requests with images")
    console.print(f"{killed.frames} frames with a result, {killed.lost} lost in {killed.gaps} gaps")
    return killed.problems + late


def run_crowd(duration_s: int, options: Namespace) -> list[str]:
    """Measure how broken cameras affect healthy streams."""
    with (
        serving() as cluster,
        progress("crowd", duration_s) as tell,
        camera(save_pictures(), fps=_CROWD_FPS) as port,
    ):
        crowded = crowd(cluster, port, options.streams, duration_s, tell)
    console.print(
        f"the healthy streams: {crowded.captured} frames captured, {crowded.processed} processed, "
        f"{crowded.dropped} dropped"
    )
    for name, state in crowded.states.items():
        console.print(f"  {name}: {state}")
    return crowded.problems


def run_churn(times: int, _: Namespace) -> list[str]:
    """Measure what deleted streams leave behind."""
    with serving() as cluster, progress("churn", times) as tell:
        churned = churn(cluster, save_video(), times, tell)
    _show("to create four streams, get a result of each and delete them", churned.took_s)
    for name, before in churned.before.items():
        _show_footprints(name, before, churned.after.get(name))
    return churned.problems


def run_node(times: int, _: Namespace) -> list[str]:
    """Measure how long the streams of a dead node are interrupted."""
    os.environ[SEVERAL_NODES] = "1"
    with serving() as cluster, progress("node", times) as tell:
        moved = lose_node(cluster, save_video(), honest_picture(), times, tell)
    late = _show("from the node's death to a later frame's result", moved.away_s, _NODE_BAR_S)
    console.print(f"{moved.requests} requests with images")
    console.print(f"{moved.moved} streams were taken over, and {moved.lost} of their frames were lost")
    return moved.problems + late


def run_resize(times: int, _: Namespace) -> list[str]:
    """Measure the effects of adding and draining a node."""
    os.environ[SEVERAL_NODES] = "1"
    with serving(local_config(deployments=SPREAD)) as cluster, progress("resize", times) as tell:
        resized = resize(cluster, save_video(), honest_picture(), FOLDER / "output", SPREAD, times, tell)
    _show("from the node's joining until it processes images", resized.joined_s)
    _show("from the drain to a stream's first result on the other node", resized.moved_s)
    late = _show("the interruption of a moved stream", resized.away_s, _MOVE_BAR_S)
    _show("from the drain to the node's end", resized.drain_s)
    console.print(f"{resized.requests} requests with images")
    console.print(
        f"{resized.moved} streams moved; {resized.frames} frames have a result; followers missed {resized.unseen} of "
        f"these results; {resized.lost} frames were lost"
    )
    console.print(f"{resized.crossings} frames were sent to the other node as bytes")
    return resized.problems + late


def run_scale(hold_s: int, _: Namespace) -> list[str]:
    """Check that the number of Detectors follows a load of images over HTTP, and then a load of streams."""
    os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps(
        {"GPU": 4, "CPU": 16}
    )  # logical resources of the Ray cluster that ``serving`` starts
    bounds: dict[str, Any] = {"least": 1, "most": 4, "low_s": 30.0, "hold_s": hold_s, "downscale_delay_s": 30.0}
    trials: dict[str, Scaling] = {}
    plan = Plan(low=20, high=120, **bounds)
    with (
        serving(scaling_config(max_batch_size=8, plan=plan)) as cluster,
        progress("images over HTTP", _SCALE_S + hold_s) as tell,
        HttpLoad(f"{cluster.url}/detect", small_picture()) as load,
    ):
        trials["images over HTTP: one Detector takes 40/s"] = scale(cluster.detectors, load, plan, tell)
    console.print(f"{load.count} requests with images")
    plan = Plan(low=2, high=12, **bounds)  # low and high are numbers of streams
    with (
        serving(scaling_config(max_batch_size=2, plan=plan)) as cluster,
        progress("streams", _SCALE_S + hold_s) as tell,
        StreamLoad(cluster, save_camera()) as streams,
    ):
        trials["12 streams of 2.5 frames/s: one Detector takes 10/s"] = scale(cluster.detectors, streams, plan, tell)
    for title, trial in trials.items():
        up, down = trial.changes(trial.up_at_s, trial.held_at_s), trial.changes(trial.down_at_s, trial.end_s)
        console.print(
            f"{title}: {plan.most} Detectors ran {trial.up_s:.0f} s after the load rose; targets in order: {up}"
        )
        console.print(
            f"  the target was {plan.least} again {trial.down_s:.0f} s after the load fell; targets in order: {down}"
        )
        console.print(f"  during high load: {trial.held()}")
    (FOLDER / "scaling.json").write_text(json.dumps({title: asdict(trial) for title, trial in trials.items()}))
    console.print(f"plot: {save_plot(trials, FOLDER / 'scaling.png')}")
    return [f"{title}: {problem}" for title, trial in trials.items() for problem in trial.problems]


def run_swap(times: int, options: Namespace) -> list[str]:
    """Measure the effects of changing the model without downtime."""
    first, second = _two_models(options)
    config = local_config({"model": {"weights": first}})
    with serving(config) as cluster, progress("swap", times) as tell:
        swapped = swap(cluster, CONFIG, (second, first), save_one_picture(options.picture), times, tell)
    _show("from the command to an answer of the new model", swapped.took_s)
    console.print(f"{swapped.requests} requests with images; answers by model: {dict(swapped.answers)}")
    console.print("the Detector's memory in MiB: " + " ".join(f"{mib:.0f}" for mib in swapped.memory_mib))
    console.print(f"the answer to an invalid model file: {swapped.refusal}")
    return swapped.problems


def run_mixed(duration_s: int, options: Namespace) -> list[str]:
    """Serve two models at the same time, and check that every answer comes from the requested model."""
    first, second = _two_models(options)
    config = local_config({"model": {"weights": first}, "models": {SECOND: {"weights": second}}})
    with serving(config) as cluster, progress("mixed", duration_s) as tell:
        mixed = mix(cluster, save_one_picture(options.picture), duration_s, tell)
    console.print(f"answers by model: {dict(mixed.answers)}")
    return mixed.problems


def run_hostile(times: int, options: Namespace) -> list[str]:
    """Measure how hostile requests are answered, and how they affect legitimate requests."""
    seed = secrets.randbits(32) if options.seed is None else options.seed
    console.print(f"--seed {seed}")
    slots = PreprocessorArgs().slots
    with serving() as cluster, progress("hostile", times) as tell:
        attacked = hostile(cluster, seed, times, honest_picture(), slots, save_video(), tell)
    _show("a legitimate request during the attack", attacked.honest_s)
    for name, before in attacked.before.items():
        _show_footprints(name, before, attacked.after[name])
    for label, number in attacked.answers.most_common():
        console.print(f"  {number:6} {label}")
    return attacked.problems


def run_field(times: int, options: Namespace) -> list[str]:
    """Check that real-world images, cameras, models, clients and machines are handled correctly.

    The log lines and warnings of libraries are written to field.log, so that they do not break the progress bar.
    """
    cases = of_kind(CASES, options.kind) * times
    if not cases:
        return [f"--kind: no kind of case has a name that contains {options.kind!r}"]
    with serving() as cluster, logging_to(FOLDER / "field.log"), progress("field", len(cases)) as tell:
        verdicts = try_all(cases, cluster.url, tell)
    console.print(table(verdicts))
    return [str(verdict) for verdict in verdicts if verdict.problem]


def run_scene_health(times: int, options: Namespace) -> list[str]:
    """Inject faults into video, and look for false alarms in harmless video. This trial needs no server."""
    seed = 24 if options.seed is None else options.seed
    with progress("scene health", 1) as tell:
        trial = scene_health(times, _HARMLESS_S, seed, tell)
    console.print(f"--seed {seed}", fault_table(trial), harmless_table(trial.harmless))
    unjudged = sum(one.unjudged for one in trial.injections)
    console.print(
        f"of {len(trial.injections) + unjudged} sources that were drawn for a fault, {unjudged} could not be judged, "
        "and another source was drawn instead"
    )
    console.print(f"one sample of a 1080p frame takes {trial.sample_ms:.2f} ms of CPU time")
    console.print(f"plot: {save_scene_plot(trial, FOLDER / 'scene_health.png')}")
    return trial.problems


def _two_models(options: Namespace) -> tuple[str, str]:
    if not options.weights:
        return "codes", str(save_second_model(FOLDER).resolve())
    first, second = options.weights
    # We leave a value that is not a file unchanged, because it is the name of a published model.
    return str(first.resolve() if first.exists() else first), str(second.resolve() if second.exists() else second)


def _show(what: str, seconds: Sequence[float], bar_s: float = float("inf")) -> list[str]:
    """Print the median and the maximum of ``seconds``. Return a problem if the maximum exceeds ``bar_s``."""
    if seconds:
        console.print(f"{what}: median {np.median(seconds):.2f} s, longest {max(seconds):.2f} s ({len(seconds)} times)")
    return [f"{what}: {max(seconds):.2f} s, above the limit of {bar_s:g} s"] if seconds and max(seconds) > bar_s else []


def _show_footprints(name: str, before: Footprint | None, after: Footprint | None) -> None:
    """Print the resources that a process held before and after the trial."""
    if before and after:
        console.print(
            f"{name}: {before.descriptors} -> {after.descriptors} descriptors, {before.threads} -> {after.threads} "
            f"threads, {before.memory_mib:.0f} -> {after.memory_mib:.0f} MiB"
        )


# The number of each trial is a default: seconds for crowd, scale and mixed, and repetitions for all other trials.
def run_frigate(count: int, options: Namespace) -> list[str]:
    """Measure the latency of Frigate's requests beside a batch job."""
    photographs = list(pictures.photographs(None))
    squares = [square(photograph) for photograph in photographs]
    model = {"weights": str(options.model), "image_size_px": options.size}
    with serving(local_config({"model": model})) as cluster, progress("requests", count) as tell:
        folder = link_pictures(photographs, FOLDER / "photographs", count * _JOB_IMAGES)
        answers = frigate(cluster, folder, squares, count, tell)
    p50_s, p95_s, p99_s = np.percentile(answers.took_s, [50, 95, 99])
    console.print(
        f"{count} requests at {options.size} px: p50 {p50_s * 1e3:.0f} ms, p95 {p95_s * 1e3:.0f} ms, "
        f"p99 {p99_s * 1e3:.0f} ms, {answers.late:.2%} took more than 100 ms; the job processed "
        f"{answers.job_alone_per_s:.1f} images/s alone and {answers.job_beside_per_s:.1f} beside the requests"
    )
    late = [f"the p99 exceeds {_FRIGATE_BAR_S * 1e3:g} ms"] if p99_s > _FRIGATE_BAR_S else []
    return answers.problems + late + (["more than 0.5 % were too late"] if answers.late > _FRIGATE_LATE_BAR else [])


TRIALS: dict[str, tuple[int, Callable[[int, Namespace], list[str]]]] = {
    "disconnects": (200, run_disconnects),
    "kills": (10, run_kills),
    "crowd": (120, run_crowd),
    "churn": (200, run_churn),
    "node": (3, run_node),
    "resize": (3, run_resize),
    "scale": (75, run_scale),
    "swap": (20, run_swap),
    "mixed": (60, run_mixed),
    "hostile": (20_000, run_hostile),
    "field": (1, run_field),
    "jobs": (10, run_jobs),
    "frigate": (1200, run_frigate),
    "drift": (100, run_drift),
    "scene_health": (100, run_scene_health),
}

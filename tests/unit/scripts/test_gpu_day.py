"""Tests of the run for a machine with a GPU, with small numbers on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu_day import __main__ as gpu_day
from scripts.gpu_day import unit_tests
from scripts.gpu_day.engine import throughput
from scripts.gpu_day.models import frames, two_shapes
from scripts.gpu_day.stage import Plan, Record
from scripts.gpu_day.usage import means
from serve_app.models.engines.simulated import SimulatedEngine
from serve_app.types import InputShape
from tests.support.paths import ROOT

WITHOUT_RAY = [stage for stage in gpu_day.STAGES if stage != "serving"]


def run(output: Path, *stages: str) -> dict[str, dict[str, str]]:
    """Run stages as the command does, and return how each ended."""
    command = [sys.executable, "-m", "scripts.gpu_day", "--small", "--output", str(output), "--stages", *stages]
    subprocess.run(command, cwd=ROOT, check=False)
    summary: dict[str, dict[str, str]] = json.loads((output / "summary.json").read_text())
    return summary


def test_the_time_limits_together_leave_half_a_minute_of_nine() -> None:
    assert sum(gpu_day.STAGES.values()) <= gpu_day._TOTAL_S <= 9 * 60


@pytest.mark.only_with_chaos
def test_a_model_is_measured_and_compared_with_small_numbers(tmp_path: Path) -> None:
    assert run(tmp_path, "untrained")["untrained"]["outcome"] == "done"
    results = json.loads((tmp_path / "untrained.json").read_text())
    parts = {
        part: [one for one in results if one["part"] == part] for part in ("engine", "profile", "batcher", "parity")
    }
    assert {(one["shape"], one["batch_size"]) for one in parts["engine"]} == {
        (shape, size) for shape in ("320x320", "192x320") for size in (1, 2)
    }
    assert [one["part"] for one in results[:2]] == ["start", "parity"]  # before what takes long
    assert all(one["operations_ms"] for one in parts["profile"])
    assert [one["shapes"] for one in parts["batcher"][::2]] == [["320x320"], ["192x320"], ["320x320", "192x320"]]
    assert all(one["largest_confidence_difference"] < 0.001 for one in parts["parity"])


@pytest.mark.only_with_chaos
def test_every_stage_without_ray_runs_with_small_numbers(tmp_path: Path) -> None:
    ended = run(tmp_path, *WITHOUT_RAY)
    assert {stage: one["outcome"] for stage, one in ended.items()} == dict.fromkeys(WITHOUT_RAY, "done")
    assert all((tmp_path / f"{stage}.json").exists() for stage in WITHOUT_RAY)


@pytest.mark.only_with_chaos
def test_a_stage_that_takes_too_long_is_stopped_and_keeps_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is replaced by one that saves a result and then hangs."""
    script = (
        "import sys, time; from pathlib import Path; from scripts.gpu_day.stage import Record;"
        f"Record(Path({str(tmp_path)!r}) / 'slow.json').add(first=1); time.sleep(600)"
    )
    start = subprocess.Popen

    def hanging(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = start([sys.executable, "-c", script], **options)  # type: ignore[call-overload]
        while not (tmp_path / "slow.json").exists():
            process.poll()
        return process

    monkeypatch.setattr(subprocess, "Popen", hanging)
    outcome = gpu_day.run("slow", {"output": str(tmp_path)}, 0.1, {"PYTHONPATH": str(ROOT)})
    assert outcome == "stopped after 0 s"
    assert json.loads((tmp_path / "slow.json").read_text()) == [{"first": 1}]


def unit_tests_without(package: str, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Run the stage with a package that cannot be imported. Return how it ended, and its results."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(f"raise ModuleNotFoundError({package!r})")
    plan = {"output": str(folder), "weights": "codes", "pictures": "", "small": True}
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    outcome = gpu_day.run("unit_tests", plan, 120, environment)
    return outcome, json.loads((folder / "unit_tests.json").read_text())


@pytest.mark.only_with_chaos
def test_the_unit_tests_run_on_a_machine_without_openvino(tmp_path: Path) -> None:
    outcome, results = unit_tests_without("openvino", tmp_path)
    assert outcome == "done", (tmp_path / "unit_tests.log").read_text()
    assert results[0]["passed"] == results[0]["tests"] > 0
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-n", "0", "-p", "no:cacheprovider"]
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([*command, *unit_tests._SELECTION, *unit_tests._TESTS], cwd=ROOT, env=environment, check=True)


@pytest.mark.only_with_chaos
def test_unit_tests_that_cannot_start_are_reported_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "unit_tests.xml").write_text("<testsuite><testcase name='old'/></testsuite>")
    outcome, results = unit_tests_without("onnx", tmp_path)
    assert outcome.startswith("failed with status 4")
    assert (results[0]["tests"], results[0]["status"]) == (0, 4)
    assert "ModuleNotFoundError: onnx" in results[0]["reason"]


def test_a_stage_that_fails_is_reported(tmp_path: Path) -> None:
    outcome = gpu_day.run("nothing", {"output": str(tmp_path)}, 60, {"PYTHONPATH": str(ROOT)})
    assert outcome.startswith("failed with status 1")
    assert "TypeError" in (tmp_path / "nothing.log").read_text()  # the plan lacks most of its fields


def test_results_are_saved_one_by_one(tmp_path: Path) -> None:
    record = Record(tmp_path / "stage.json")
    record.add(batch_size=1)
    assert json.loads((tmp_path / "stage.json").read_text()) == [{"batch_size": 1}]
    record.add(batch_size=2)
    assert len(json.loads((tmp_path / "stage.json").read_text())) == 2


def test_the_second_shape_is_that_of_a_wide_frame() -> None:
    square, wide, tall = InputShape.square(640), InputShape(384, 640), InputShape(640, 384)
    assert two_shapes([wide, tall, square]) == [square, wide]
    assert two_shapes([square]) == [square]


def test_throughput_counts_the_images_of_all_threads() -> None:
    seen = throughput(
        SimulatedEngine("null", input_shape=InputShape.square(32), rectangular=False),
        frames(InputShape.square(32), 2),
        0.05,
    )
    assert seen["images_per_s"] > 0
    assert set(seen) == {"images_per_s", "latency_ms", "cpu_ms_per_image"}


def test_lines_of_nvidia_smi_that_are_cut_off_do_not_count() -> None:
    assert means("10, 5, 1000, 100.5, 1500\n30, 15, 3000, 200.5, 1700\n40, 2") == {
        "gpu_percent": 20.0, "gpu_memory_busy_percent": 10.0, "gpu_memory_mib": 2000.0, "gpu_power_w": 150.5,
        "gpu_clock_mhz": 1600.0,
    }  # fmt: skip
    assert means("[N/A]\n") == {}


def test_without_a_gpu_the_numbers_are_small(tmp_path: Path) -> None:
    plan = Plan(stage="trained", output=str(tmp_path), weights="codes", pictures="", small=False)
    assert plan.is_small is not plan.has_gpu

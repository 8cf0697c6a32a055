"""Tests of the benchmark's calculations."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import openvino as ov
import pytest

from scripts.bench import steps
from scripts.benchmark import comparison, load, pictures, report, rounds
from scripts.benchmark.ceiling import throughput
from scripts.benchmark.compiled import Computed, Question, ask, precision_of, recorded
from scripts.benchmark.contenders import Contender, Running
from scripts.benchmark.videos import size_of, sized
from scripts.benchmark.weights import openvino_folder
from serve_app.models.engines.simulated import SimulatedEngine
from serve_app.types import InputShape
from tests.support.videos import save_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save three JPEGs: a landscape, a portrait and a square."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(480, 640, 3), (640, 480, 3), (500, 500, 3)]):
        cv2.imwrite(str(folder / f"{number}.jpg"), rng.integers(0, 255, size, np.uint8))
    return folder


def saved_sizes(folder: Path, name: str) -> list[tuple[int, int]]:
    return list(pictures.sizes(pictures.save_photographs(folder, folder.parent / "sent", name)).elements())


def test_the_images_of_a_set_are_cropped_to_its_ratio_and_keep_their_orientation(folder: Path) -> None:
    assert sorted(saved_sizes(folder, "16:9")) == [(360, 640), (500, 281), (640, 360)]
    assert sorted(saved_sizes(folder, "4:3")) == [(480, 640), (500, 375), (640, 480)]


def test_the_mixed_set_has_the_files_of_the_folder_as_they_are(folder: Path) -> None:
    assert pictures.photographs(folder) == [path.read_bytes() for path in sorted(folder.iterdir())]


def test_photographs_are_put_together_to_twelve_megapixels(folder: Path) -> None:
    assert set(saved_sizes(folder, "12-megapixel")) == {(4000, 3000)}


def test_without_a_folder_scenes_are_drawn(tmp_path: Path) -> None:
    assert set(pictures.sizes(pictures.save_photographs(None, tmp_path, "3:2"))) == {(1280, 853)}


def test_the_precision_is_read_from_the_compiled_model(squares_model: Path) -> None:
    core = ov.Core()
    (network,) = squares_model.glob("*.xml")
    with recorded() as models:
        core.compile_model(str(network), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert precision_of(models) == "fp32"
    assert precision_of([]) == ""


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.only_with_chaos), "auto"])
def test_another_server_computes_in_the_precision_that_openvino_chooses_unless_it_is_told(
    tmp_path: Path, folder: Path, precision: str
) -> None:
    has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    expected = "bf16" if has_bf16 and precision == "auto" else "fp32"
    question = Question(weights=str(openvino_folder("codes", tmp_path)), pictures=str(folder))
    answer = ask(question, os.environ | {"PRECISION": precision})
    assert answer == Computed("codes_openvino_model", expected, ["640x640"])


def test_sightline_names_its_file_its_precision_and_its_input_shapes() -> None:
    computed = ask(Question(model={"weights": "codes", "engine": "openvino"}))
    assert (computed.file, computed.precision, computed.input_shapes[-1]) == ("codes", "fp32", "640x640")


def test_the_bare_engine_computes_only_images_of_the_given_shapes() -> None:
    seen: set[tuple[int, ...]] = set()

    class Engine(SimulatedEngine):
        def infer(self, frames: Any, *, alone: bool = True) -> Any:
            seen.update(frame.shape for frame in frames)
            assert len({frame.shape for frame in frames}) == 1
            return super().infer(frames, alone=alone)

    engine = Engine("null", input_shape=InputShape.square(64), rectangular=True)
    images_per_s, cpu_ms = throughput(engine, [InputShape(32, 64), InputShape(64, 32)], 0.1)
    assert seen == {(32, 64, 3), (64, 32, 3)}
    assert images_per_s > 0
    assert cpu_ms > 0


def test_a_video_is_encoded_again_at_another_size(tmp_path: Path) -> None:
    video = sized(save_video(tmp_path / "squares.avi", frames=20, fps=5), "768x432", tmp_path)
    assert size_of(video) == (768, 432)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        frames = [(frame.key_frame, frame.time) for frame in container.decode(stream)]
    assert (stream.codec_context.name, float(stream.average_rate or 0), len(frames)) == ("h264", 5.0, 20)
    assert [at_s for is_key, at_s in frames if is_key] == [0, 2]


def one_measurement(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "contender": name, "detectors": 1, "concurrency": 16, "round": 0, "images_per_s": 90.0, "failures": {},
        "latencies_ms": [1.0, 2.0], "cpu_ms_per_image": 20.0, "mean_batch_size": None, "memory_mib": 5.0,
        "input_shapes": {},
    } | changes  # fmt: skip


@pytest.fixture
def result() -> dict[str, Any]:
    """Return the result of one round in which Sightline computed rectangles and another server squares."""
    ours = one_measurement(report.OURS, input_shapes={"384x640": 9, "640x640": 1})
    computed = {"file": "v8.pt", "precision": "bf16", "input_shapes": ["384x640", "640x384", "640x640"]}
    bare = {"images_per_s": 100.0, "cpu_ms_per_image": 18.0, "latency_ms": 9.0, "input_shape": "640x640",
            "precision": "bf16", "rectangles_per_s": 150.0, "rectangles_cpu_ms": 12.0}  # fmt: skip
    return {
        "machine": "a CPU, 2 cores", "flags": ["amx_bf16"], "date": "2026-01-01", "model": {"weights": "v8.pt"},
        "pictures": {"set": "16:9", "count": 3}, "ceiling": [bare],
        "computed": {report.OURS: computed, "mosec": computed | {"input_shapes": ["640x640"]}},
        "measurements": [ours, one_measurement("mosec", images_per_s=60.0)],
    }  # fmt: skip


def test_the_table_names_what_every_server_computes(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    report.show(result)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Sightline", "v8.pt", "bf16", "384x640,", "640x640"] in lines
    assert ["mosec", "v8.pt", "bf16", "640x640"] in lines
    assert ["bare", "engine,", "rectangles", "150.0", "1.50"] in lines


def test_cpu_beyond_the_engine_is_compared_with_an_engine_that_computes_the_same_shapes(result: dict[str, Any]) -> None:
    assert report.summary(result, report.OURS, 16)["engine_cpu_ms"] == 12.0
    assert report.summary(result, "mosec", 16)["engine_cpu_ms"] is None
    row = comparison.image_row(result)
    assert row == ("16:9", "bf16", "100.0", "150.0", "90.0", "0.90", "mosec (bf16): 60.0", "1.50", "8.0")


def test_the_cost_of_drift_is_the_difference_of_each_round(
    result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    off = report.OURS + report.WITHOUT_DRIFT
    # The second round measures both servers in the reverse order.
    cpu_ms = [(report.OURS, 0, 4.5), (off, 0, 4.25), (off, 1, 4.0), (report.OURS, 1, 4.125)]
    rows = [one_measurement(name, round=number, cpu_ms_per_image=ms) for name, number, ms in cpu_ms]
    result["measurements"] = rows
    assert report.drift_costs_ms(result, 16) == [0.25, 0.125]
    report.show(result)
    assert "drift, 16 clients: 0.19 CPU ms per image; in each round: 0.25, 0.12" in capsys.readouterr().out


def test_results_are_compared_in_a_plot(result: dict[str, Any], tmp_path: Path) -> None:
    comparison.save_plot([result, result | {"measurements": result["measurements"][:1]}], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_streams_are_compared_with_the_engine_of_their_round() -> None:
    measurements = [
        {"round": number, "video": "a.mp4", "size": "768x432", "frames_per_s": fps,
         "cores_by_process": {"StreamWorker": 0.4, "Detector": 1.2}}
        for number, fps in enumerate([90.0, 55.0])
    ]  # fmt: skip
    result = {"streams": 4, "max_fps": None, "ceiling": [{"images_per_s": 100.0}, {"images_per_s": 50.0}],
              "computed": {"precision": "int8"}, "measurements": measurements}  # fmt: skip
    assert comparison.stream_rows(result) == [("768x432", "int8", "4", "75.0", "72.5", "1.00", "22.1", "0.100")]


@pytest.mark.parametrize(
    ("text", "expected"), [("8", [8]), ("1:4", [1, 2, 3, 4]), ("1:16:5", [1, 6, 11, 16]), ("1:16:4x", [1, 4, 16])]
)
def test_a_concurrency_range_has_the_syntax_of_perf_analyzer(text: str, expected: list[int]) -> None:
    assert steps(text) == expected


def test_the_rounds_of_a_case_are_combined() -> None:
    one = {
        "contender": "a", "detectors": 1, "concurrency": 4, "round": 0, "images_per_s": 10.0,
        "latencies_ms": [1.0, 2.0, 3.0],
        "failures": {"503": 1}, "cpu_ms_per_image": 30.0, "mean_batch_size": None, "memory_mib": 5.0,
    }  # fmt: skip
    other = one | {"round": 1, "images_per_s": 20.0, "latencies_ms": [4.0, 5.0], "memory_mib": 7.0, "failures": {}}
    result = {"measurements": [one, other], "ceiling": []}
    assert report.cases(result) == [("a", 4)]
    summary = report.summary(result, "a", 4)
    assert (summary["images_per_s"], summary["p50_ms"], summary["memory_mib"], summary["failed"]) == (15.0, 3.0, 7.0, 1)


def test_every_round_sends_as_many_requests_as_there_are_clients(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a round was once taken for a rate of requests, so that only the first round had all clients."""
    plans: list[load.LoadPlan] = []
    server = Contender("server", lambda: nullcontext(Running("", os.getpid(), multipart=False)), lambda _: None)

    def answer(plan: load.LoadPlan, at_edge: Callable[[], None]) -> load.LoadResult:
        plans.append(plan)
        at_edge()
        at_edge()
        return load.LoadResult()

    monkeypatch.setattr(load, "run", answer)
    monkeypatch.setattr(rounds, "_IDLE_S", 0.01)
    model = {"engine": "null", "weights": "codes", "precision": "auto"}
    rounds.measure(
        [server],
        model=model,
        pictures=folder,
        picture_set="mixed",
        decode="exact",
        concurrencies=[4],
        duration_s=0.1,
        rounds=2,
    )
    assert [(plan.concurrency, plan.rate_per_s) for plan in plans] == [(4, 0.0), (4, 0.0)]
    assert plans[0].seed != plans[1].seed

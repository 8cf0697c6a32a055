"""Tests of ``sightline detect`` with a real server whose backend finds one dog in every image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import yaml

from serve_app.api.access.keys import make_key
from serve_app.cli.detect import _lines, annotated_names
from serve_app.client import DetectResult
from serve_app.schemas.detect import DetectResponse
from serve_app.types import DetectOptions
from tests.support import tasks
from tests.support.command import sightline
from tests.support.stream_server import StreamServer, serve_streams


@pytest.fixture
def served() -> Iterator[StreamServer]:
    with serve_streams() as served:
        yield served


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    good, bad = tmp_path / "dock.jpg", tmp_path / "broken.jpg"
    good.write_bytes(b"123")
    bad.write_bytes(b"bad")
    return good, bad


def test_the_objects_are_printed_with_their_boxes(served: StreamServer, pictures: tuple[Path, Path]) -> None:
    done = sightline("detect", pictures[0], "--url", served.url)
    assert (done.returncode, done.stderr) == (0, "")
    title, line = done.stdout.splitlines()
    assert title.startswith(f"{pictures[0]}: 1 object, 3x10, ")
    assert line.split() == ["dog", "0.75", "0", "0", "3", "10"]


def test_json_has_one_line_for_each_image(served: StreamServer, pictures: tuple[Path, Path]) -> None:
    done = sightline("detect", *pictures, "--json", "--url", served.url)
    good, bad = map(json.loads, done.stdout.splitlines())
    assert (good["file"], good["count"], good["detections"][0]["label"]) == (str(pictures[0]), 1, "dog")
    assert (bad["file"], bad["code"]) == (str(pictures[1]), "undecodable")
    assert (done.returncode, done.stderr) == (1, f"{pictures[1]}: the image is truncated or corrupt\n")


def test_the_annotated_images_are_those_of_the_server(
    served: StreamServer, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    done = sightline("detect", pictures[0], "--save", tmp_path / "a/found", "--url", served.url)
    saved = tmp_path / "a/found/dock-found.jpg"
    assert f"saved to {saved}" in done.stdout
    drawn = cv2.imread(str(saved))
    assert drawn is not None
    assert drawn.shape == (8, 8, 3)
    assert pictures[0].read_bytes() == b"123"


def test_the_options_apply_to_the_objects_and_to_the_drawing(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    options = ["--confidence", "0.3", "--classes", "dog,0", "--model", "plates", "--save", str(tmp_path / "found")]
    with serve_streams({"models": {"plates": {"weights": "plates.onnx"}}}) as served:
        done = sightline("detect", pictures[0], *options, "--url", served.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert served.backend.models_asked == ["plates", "plates"]
        assert [sorted(asked.class_ids or ()) for asked in served.backend.options] == [[0, 1], [0, 1]]
        assert [asked.confidence for asked in served.backend.options] == [0.3, 0.3]
        unknown = sightline("detect", pictures[0], "--model", "nope", "--url", served.url)
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert unknown.stderr == "model: no model is named 'nope'; use one of default, plates\n"


def test_annotated_images_never_have_equal_names() -> None:
    images = [Path("a/1.jpg"), Path("b/1.jpg"), Path("1.png"), Path("2.jpg")]
    assert annotated_names(images) == ["1-found.jpg", "1-found-2.jpg", "1-found-3.jpg", "2-found.jpg"]


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    served: StreamServer, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    done = sightline("detect", tmp_path / "nowhere.jpg", pictures[0], "--url", served.url)
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/nowhere.jpg: the file cannot be read (No such file or directory)\n"
    assert "dog" in done.stdout


def test_a_folder_that_cannot_be_written_is_reported_in_one_sentence(
    served: StreamServer, pictures: tuple[Path, Path]
) -> None:
    done = sightline("detect", pictures[0], "--save", pictures[1], "--url", served.url)
    assert done.returncode == 1
    assert done.stderr.startswith(f"--save: {pictures[1]}/dock-found.jpg cannot be written (")


def test_the_key_is_read_from_the_environment(tmp_path: Path, pictures: tuple[Path, Path]) -> None:
    key, entry = make_key("dock", ["detect"])
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    with serve_streams({"access": {"keys_file": str(tmp_path / "keys.yaml")}}) as served:
        refused = sightline("detect", *pictures, "--url", served.url)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            f"{served.url} needs an API key: set SIGHTLINE_KEY to your key, as in SIGHTLINE_KEY=sl_… sightline models\n"
        )
        unknown = sightline("detect", *pictures, "--url", served.url, SIGHTLINE_KEY="sl_other")
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert unknown.stderr == (
            f"{served.url} does not know the API key in SIGHTLINE_KEY, or the key has expired: set another key\n"
        )
        assert sightline("detect", pictures[0], "--url", served.url, SIGHTLINE_KEY=key).returncode == 0


def test_thresholds_for_each_class_are_sent(served: StreamServer, pictures: tuple[Path, Path]) -> None:
    done = sightline("detect", pictures[0], "--confidence", "dog:0.6,*:0.3", "--agnostic-nms", "--url", served.url)
    assert (done.returncode, done.stderr) == (0, "")
    expected = DetectOptions(0.3, 0.7, 300, class_confidence=((1, 0.6),), agnostic_nms=True)
    assert served.backend.options == [expected]


def test_an_invalid_threshold_is_refused_before_anything_is_sent(served: StreamServer, tmp_path: Path) -> None:
    done = sightline("detect", tmp_path / "a.jpg", "--confidence", "dog:2", "--url", served.url)
    assert done.returncode == 2
    assert "the threshold of 'dog' is 2" in " ".join(done.stderr.split())
    assert served.backend.options == []


def test_the_classes_of_an_image_are_printed() -> None:
    answer = DetectResponse.from_answer(tasks.answer(tasks.classified()), "7")
    lines = _lines(Path("a.jpg"), DetectResult.model_validate_json(answer.model_dump_json()))
    assert lines == ["a.jpg: 200x100, 0 ms", "  dog  0.80", "  cat  0.15"]

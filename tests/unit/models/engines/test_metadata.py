from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.engines.metadata import read_labels
from serve_app.models.load import load


def test_a_model_for_another_task_is_refused_in_one_sentence(squares_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seg_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "metadata.yaml").write_text("task: segment\nnames: {0: red, 1: green, 2: blue}\n")
    with pytest.raises(ModelError, match="'segment', but only detection"):
        load(ModelArgs(weights=folder), has_gpu=False)


def test_labels_cannot_control_a_terminal() -> None:
    names = {0: "\x1b]0;title\x07", 1: "cat\nINFO ready", 2: "\x9b2J", 3: "naïve 猫\u3000👩\u200d🚒"}
    labels = read_labels({"names": names})
    assert labels == ("?]0;title?", "cat?INFO ready", "?2J", "naïve 猫\u3000👩\u200d🚒")
    assert read_labels({"names": repr(names)}) == labels


def test_a_model_with_a_very_long_label_is_refused() -> None:
    assert read_labels({"names": ["x" * 1000]}) == ("x" * 1000,)
    with pytest.raises(ModelError, match=r"^the model has a class name of 1001 characters, but at most 1000 are"):
        read_labels({"names": ["cat", "x" * 1001]})

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.load import load


def test_a_model_for_another_task_is_refused_in_one_sentence(squares_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seg_openvino_model"
    folder.mkdir()
    for path in squares_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "metadata.yaml").write_text("task: segment\nnames: {0: red, 1: green, 2: blue}\n")
    with pytest.raises(ModelError, match="'segment', but only detection"):
        load(ModelArgs(weights=folder), has_gpu=False)

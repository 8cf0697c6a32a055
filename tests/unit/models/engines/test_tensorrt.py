from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config import ModelArgs
from serve_app.errors import ModelError
from serve_app.models.load import load
from tests.conftest import trusted


@pytest.mark.parametrize(("weights", "sentence"), [("any.onnx", "reads a .pt file"), ("any.pt", "needs a GPU")])
def test_tensorrt_without_a_checkpoint_or_a_gpu_is_refused(tmp_path: Path, weights: str, sentence: str) -> None:
    (tmp_path / weights).write_bytes(b"never read")
    with pytest.raises(ModelError, match=sentence):
        load(ModelArgs(**trusted(tmp_path / weights), engine="tensorrt"), has_gpu=False)

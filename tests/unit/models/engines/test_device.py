from __future__ import annotations

import numpy as np
import pytest
import torch

from serve_app.models.engines.device import ExecutionContext, to_input
from serve_app.types import InputShape


def test_an_execution_context_returns_each_frames_own_rows() -> None:
    """The test runs on the CPU. On a GPU, the same code runs a network instead of this ``step``."""

    def step(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (red, green, blue) = to_input(frames, torch.float32).mean((2, 3)).unbind(1)
        return (torch.stack([red, green, blue], 1)[:, None],)

    context = ExecutionContext(step, torch.device("cpu"), input_shape=InputShape.square(32), max_batch_size=4)
    colours = [(0, 0, 255), (0, 51, 0), (255, 0, 0)]  # BGR
    for count in (3, 1, 2):
        frames = [np.full((32, 32, 3), colour, np.uint8) for colour in colours[:count]]
        assert [rows[0].round(3).astype(float).round(3).tolist() for rows in context.infer(frames)] == [
            [[1.0, 0.0, 0.0]], [[0.0, 0.2, 0.0]], [[0.0, 0.0, 1.0]]
        ][:count]  # fmt: skip
    wide = [np.full((16, 32, 3), colour, np.uint8) for colour in colours]
    assert [rows[0].round(3).tolist() for rows in context.infer(wide)][:1] == [[[1.0, 0.0, 0.0]]]
    with pytest.raises(RuntimeError):
        context.infer([np.zeros((32, 32, 3), np.uint8)] * 5)

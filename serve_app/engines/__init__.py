"""What runs a model: one file an engine, each importing its library late, all behind one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.types import ModelInfo, Pixels


class Engine(Protocol):
    """A loaded model. Not thread-safe: the batcher is its one caller."""

    info: ModelInfo

    def infer(self, frames: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """One raw output a frame, in order. Frames are ``(size_px, size_px, 3)`` uint8 BGR and may be read-only.

        Colour order, scaling and layout are the engine's business. See ``postprocess`` for the raw output's shapes.
        """

"""What runs a model: one file an engine, each importing its library late, all behind one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.types import EngineInfo, Pixels


class Engine(Protocol):
    """A loaded model."""

    info: EngineInfo
    concurrency: int  # calls of ``infer`` that may run at once, each in a thread of its own
    takes_batches: bool  # several frames in a call may take less time than one by one

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        """Return one raw output a frame, in order.

        Frames have the shape ``info.input_shape.array``, are uint8 BGR and may be read-only.

        Colour order, scaling and layout are the engine's business. See ``models.tasks`` for the raw output's shapes.
        ``alone``: no other call runs and nothing waits, so that every core may work on this one. An output stays valid
        until the same thread calls again.
        """

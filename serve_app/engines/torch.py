"""PyTorch, the engine on a GPU (fp16, channels last) and the reference on a CPU (fp32): reads a checkpoint."""

from __future__ import annotations

import bisect
import logging
import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.engines.device import Lane, Step, to_candidates, to_input
from serve_app.engines.ultralytics import load_network
from serve_app.errors import ModelError
from serve_app.types import ModelInfo, Pixels, Precision

logger = logging.getLogger("ray.serve")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GPU_LANES = 2  # one batch is gathered and postprocessed while the other is computed


class TorchEngine:
    """One batch, one forward pass. Raises ModelError for a checkpoint that is no detection model."""

    takes_batches = True

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        version: str,
        size_px: int,
        precision: Precision,
        threads: int,
        max_batch_size: int,
        on_gpu: bool,
    ) -> None:
        if precision == "auto":
            precision = "fp16" if on_gpu else "fp32"
        if precision == "fp16" and not on_gpu:
            raise ModelError("the torch engine does not compute in fp16 on a CPU")
        if on_gpu and not torch.cuda.is_available():
            raise ModelError("Ray gave this Detector a GPU, but PyTorch cannot use it")
        if not on_gpu:
            torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1 for an actor that asks for less than a core
        network, labels = load_network(path)
        self.info = ModelInfo(
            name=name,
            version=version,
            engine="torch",
            precision=precision,
            labels=labels,
            size_px=size_px,
            end_to_end=bool(getattr(network, "end2end", False)),
        )
        device, dtype = torch.device("cuda" if on_gpu else "cpu"), _DTYPES[precision]
        network = network.fuse(verbose=False).eval().requires_grad_(False)
        network = network.to(device, dtype, memory_format=torch.channels_last)

        def step(frames: torch.Tensor) -> torch.Tensor:
            raw = network(to_input(frames, dtype))
            raw = raw[0] if isinstance(raw, (list, tuple)) else raw
            return raw.float() if self.info.end_to_end else to_candidates(raw)

        self.concurrency = _GPU_LANES if on_gpu else 1
        self._lanes = queue.SimpleQueue[Lane]()
        for _ in range(self.concurrency):
            self._lanes.put(
                Lane(
                    _recorded(step, network, size_px, max_batch_size) if on_gpu else step,
                    device,
                    size_px=size_px,
                    max_batch_size=max_batch_size,
                    stream=torch.cuda.Stream() if on_gpu else None,
                )
            )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[NDArray[np.float32]]:
        """See ``Engine``."""
        lane = self._lanes.get()
        try:
            return lane.infer(frames)
        finally:
            self._lanes.put(lane)


def _recorded(step: Step, network: Any, size_px: int, max_batch_size: int) -> Step:
    """The step as CUDA graphs, where they work and answer as the step does; else the step."""
    try:
        graphs = _Graphs(step, network, size_px, max_batch_size)
        frames = torch.randint(256, (max_batch_size, size_px, size_px, 3), dtype=torch.uint8, device="cuda")
        with torch.inference_mode():
            if all(torch.allclose(graphs(frames[:n]), step(frames[:n]), atol=1) for n in (1, max_batch_size)):
                return graphs
        logger.warning("CUDA graphs of this model answer otherwise than it does: it runs without them, slower")
    except RuntimeError as exc:
        logger.warning("this model cannot be recorded as CUDA graphs: it runs without them, slower: %s", exc)
    return step


class _Graphs:
    """A step, recorded once for each batch size: to replay it is one launch instead of some hundreds."""

    def __init__(self, step: Step, network: Any, size_px: int, max_batch_size: int) -> None:
        self._sizes = [n for n in range(1, max_batch_size) if n <= 8 or n % 8 == 0] + [max_batch_size]
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}
        # Ultralytics' head makes its anchors anew for each batch size: those that a graph reads must live on.
        self._anchors = []
        pool = torch.cuda.graph_pool_handle()  # the graphs of a lane run one after the other: they share memory
        with torch.inference_mode():
            for size in self._sizes:
                frames = torch.zeros((size, size_px, size_px, 3), dtype=torch.uint8, device="cuda")
                step(frames)  # cuDNN chooses its kernels, the head makes its anchors
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    rows = step(frames)
                self._recorded[size] = graph, frames, rows
                self._anchors.append((network.model[-1].anchors, network.model[-1].strides))

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        size = self._sizes[bisect.bisect_left(self._sizes, len(frames))]
        graph, taken, rows = self._recorded[size]
        taken[: len(frames)].copy_(frames)
        graph.replay()
        return rows[: len(frames)]

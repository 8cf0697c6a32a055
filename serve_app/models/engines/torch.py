"""The PyTorch engine, for GPUs (fp16, channels last), and as a reference on CPUs (fp32). It reads a checkpoint."""

from __future__ import annotations

import bisect
import logging
import queue
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch

from serve_app.errors import ModelError
from serve_app.models.engines import ModelFile, RawOutput
from serve_app.models.engines.device import ExecutionContext, Step, as_batch, to_input, to_outputs
from serve_app.models.engines.metadata import read_input_shape, read_metadata
from serve_app.models.engines.ultralytics import load_network
from serve_app.models.heads import recognise
from serve_app.models.shapes import rectangles
from serve_app.types import EngineInfo, InputShape, Pixels, Precision

logger = logging.getLogger(__name__)

Outputs = tuple[torch.Tensor, ...]

_GPU_CONTEXTS = 2  # while one batch runs on the GPU, another one is gathered or postprocessed


class TorchEngine:
    """Engine that runs a batch in one forward pass. Raise ModelError when it cannot run the checkpoint."""

    takes_batches = True
    preparation = None

    def __init__(
        self, file: ModelFile, *, precision: Precision, threads: int, max_batch_size: int, on_gpu: bool
    ) -> None:
        if precision == "auto":
            precision = "fp16" if on_gpu else "fp32"
        if precision == "fp16" and not on_gpu:
            raise ModelError("model.precision: the torch engine does not support fp16 on a CPU; set it to auto or fp32")
        if on_gpu and not torch.cuda.is_available():
            raise ModelError(
                "Ray gave this Detector a GPU, but PyTorch cannot use it: check the NVIDIA driver, and install PyTorch "
                "with CUDA"
            )
        if not on_gpu:
            torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1 for actors with less than one core
        device = torch.device("cuda" if on_gpu else "cpu")
        dtype = torch.float16 if precision == "fp16" else torch.float32
        network, properties = load_network(file.path)
        metadata = read_metadata(properties)
        input_shape = read_input_shape(properties, file.input_shape)
        network = network.fuse(verbose=False).eval().requires_grad_(False)
        network = network.to(device, dtype, memory_format=torch.channels_last)

        def raw_outputs(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # Besides its results, a network returns what its loss needs. A network with masks has two results.
            output = network(to_input(frames, dtype))
            results = output[0] if isinstance(output, (list, tuple)) else output
            return tuple(results) if isinstance(results, (list, tuple)) else (results,)

        with torch.inference_mode():
            blank = torch.zeros((1, *input_shape.array), dtype=torch.uint8, device=device)
            shapes = [list(output.shape) for output in raw_outputs(blank)]
            # The end-to-end heads are the only ones of Ultralytics' heads that return rows.
            head = recognise(shapes, metadata, input_shape, is_end_to_end=True)

        def step(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return to_outputs(raw_outputs(frames), metadata, head)

        is_rectangular = file.rectangular and metadata.takes_rectangles
        self.info = EngineInfo(
            name=file.name,
            version=file.version,
            engine="torch",
            precision=precision,
            labels=metadata.labels,
            input_shape=input_shape,
            end_to_end=head == "rows",
            rectangles=rectangles(input_shape, int(network.stride.max())) if is_rectangular else (),
            task=metadata.task,
            keypoints=metadata.keypoints,
            numbers_per_keypoint=metadata.numbers_per_keypoint,
        )
        # Without graphs there is only one context, because Ultralytics' head changes its own state while it runs.
        steps = _record_graphs(step, network, self.info.shapes, max_batch_size) if on_gpu else []
        runs: list[tuple[Step, torch.cuda.Stream | None]] = [(one, one.stream) for one in steps] or [(step, None)]
        self.concurrency = len(runs)
        self._contexts = queue.SimpleQueue[ExecutionContext]()  # the contexts that no thread is using
        for run, stream in runs:
            self._contexts.put(
                ExecutionContext(run, device, input_shape=input_shape, max_batch_size=max_batch_size, stream=stream)
            )

    def infer(self, frames: Sequence[Pixels], *, alone: bool = True) -> Sequence[RawOutput]:
        """Run the model on frames: see ``Engine``."""
        context = self._contexts.get()
        try:
            return context.infer(frames)
        finally:
            self._contexts.put(context)


def _record_graphs(step: Step, network: Any, shapes: Sequence[InputShape], max_batch_size: int) -> list[_Graphs]:
    """Record ``step`` as CUDA graphs, one set for each context.

    Return [] if the recording fails, or if a graph's output differs from that of ``step``.
    """
    try:
        contexts = [_Graphs(step, network, shapes, max_batch_size) for _ in range(_GPU_CONTEXTS)]
        if all(graphs.agree_with(step) for graphs in contexts):
            return contexts
        logger.warning("the CUDA graph's output differs from eager output: the model runs without graphs, more slowly")
    except RuntimeError as exc:
        logger.warning("the model cannot be recorded as CUDA graphs and runs without them, more slowly: %s", exc)
    return []


class _Graphs:
    """A ``step`` recorded as one CUDA graph per shape and batch size.

    Replaying a graph takes one launch instead of hundreds. Batch sizes above 8 are rounded up to a multiple of 8. Only
    one thread may use the graphs at a time, on ``stream``.
    """

    def __init__(self, step: Step, network: Any, shapes: Sequence[InputShape], max_batch_size: int) -> None:
        """Record the graphs. ``shapes``: the smallest first."""
        self.stream = torch.cuda.Stream()
        self._sizes = [n for n in range(1, max_batch_size) if n <= 8 or n % 8 == 0] + [max_batch_size]
        # By height, width and batch size: the graph, its input and its outputs.
        self._graphs: dict[tuple[int, int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor, Outputs]] = {}
        # Ultralytics' head replaces its anchors for each shape and batch size. We keep the old anchors, because the
        # recorded graphs read them.
        self._anchors = []
        # The graphs of a context never run at the same time, so they share their memory and that of their inputs.
        pool = torch.cuda.graph_pool_handle()
        memory = torch.zeros(max_batch_size * shapes[-1].nbytes, dtype=torch.uint8, device="cuda")
        head = network.model[-1]
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            # The largest graph is recorded first, so that the smaller ones fit into its memory.
            for shape, size in product(reversed(shapes), reversed(self._sizes)):
                frames = as_batch(memory, size, shape.array)
                step(frames)  # warm-up: cuDNN chooses its kernels, and the head computes its anchors
                self.stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                    outputs = step(frames)
                self._graphs[*shape, size] = graph, frames, outputs
                self._anchors.append((getattr(head, "anchors", None), getattr(head, "strides", None)))

    def __call__(self, frames: torch.Tensor) -> Outputs:
        size = self._sizes[bisect.bisect_left(self._sizes, len(frames))]
        graph, static_input, outputs = self._graphs[frames.shape[1], frames.shape[2], size]
        static_input[: len(frames)].copy_(frames)
        graph.replay()
        return tuple(output[: len(frames)] for output in outputs)

    def agree_with(self, step: Step) -> bool:
        """Run every CUDA graph and ``step`` on random input, and return whether the results agree.

        Boxes may differ by 1 px, and confidences and probabilities by 0.01. The prototypes of masks are not compared,
        because their scale is arbitrary.
        """
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            for _, static_input, _ in self._graphs.values():
                noise = torch.randint_like(static_input, 256)
                found, expected = self(noise)[0], step(noise)[0]
                if found.dim() == 2:  # probabilities
                    agree = torch.allclose(found, expected, atol=0.01)
                else:
                    agree = torch.allclose(found[..., :4], expected[..., :4], atol=1)
                    agree = agree and torch.allclose(found[..., 4], expected[..., 4], atol=0.01)
                if not agree:
                    return False
        return True

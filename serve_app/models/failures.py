"""Turn an error of a library into one sentence that tells an operator what to do about the model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import ModelError, ServeAppError

logger = logging.getLogger(__name__)

_MAX_REASON = 200  # the most characters of a library's message that we repeat
_PREAMBLE = re.compile(r"Exception from |Check '|\w+ API failed with|\[ONNXRuntimeError\] : \d+ : \w+ : $")
_SOURCE_LOCATION = re.compile(
    r"^/onnxruntime_src/.*?\) (?=[A-Z])"
)  # the source file and the function, with its parameters
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
_OUT_OF_MEMORY = re.compile(r"out of memory|bad_alloc|OutOfMemory|allocate memory|MemoryError", re.IGNORECASE)


@contextmanager
def model_errors() -> Iterator[None]:
    """Turn every exception inside the ``with`` block into a ModelError.

    Only the text of a ModelError reaches the person who starts the service. Serve reports any other exception as a
    failed deployment without a reason.
    """
    try:
        yield
    except ServeAppError:
        raise
    except OSError as exc:
        raise ModelError(f"model.weights, or their export in model.cache_dir, cannot be used: {exc}") from exc
    except Exception as exc:
        logger.exception("the model cannot be loaded")
        unknown = ModelError(f"the model cannot be loaded: {type(exc).__name__}: {reason(exc)}")
        raise out_of_memory(exc) or unknown from exc


def out_of_memory(error: BaseException) -> ModelError | None:
    """Return our error if the library ran out of CPU or GPU memory, else None."""
    if not _OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
        return None
    return ModelError(
        "there is too little memory for the model: serve a smaller model, lower batcher.max_batch_size or "
        "model.image_size_px, or give the Detector more memory"
    )


def reason(error: BaseException) -> str:
    """Return the line of a library's message that says what is wrong, without the location in its source code."""
    lines = [_SOURCE_LOCATION.sub("", _CODES.sub("", line.strip())) for line in str(error).splitlines()]
    listed = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    said = listed or [line for line in lines if line and not _PREAMBLE.match(line)] or ["no reason given"]
    return said[0] if len(said[0]) <= _MAX_REASON else f"{said[0][:_MAX_REASON]}…"

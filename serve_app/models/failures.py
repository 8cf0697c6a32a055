"""What libraries raise of a model, as one sentence that an operator can act on."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import ModelError, ServeAppError

logger = logging.getLogger(__name__)

_MAX_REASON = 200  # characters of a library's words
_PREAMBLE = re.compile(r"Exception from |Check '|\w+ API failed with|\[ONNXRuntimeError\] : \d+ : \w+ : $")
_PLACE = re.compile(r"^/onnxruntime_src/.*?\) (?=[A-Z])")  # the source file and the function, with its parameters
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
_OUT_OF_MEMORY = re.compile(r"out of memory|bad_alloc|OutOfMemory|allocate memory|MemoryError", re.IGNORECASE)


@contextmanager
def model_errors() -> Iterator[None]:
    """Raise what goes wrong with a model as ModelError: only its sentence reaches the person who starts the service.

    A library may raise anything, and Serve reports any other exception as a failed deployment, without its reason.
    """
    try:
        yield
    except ServeAppError:
        raise
    except OSError as exc:
        raise ModelError(f"model.weights, or what is made of them in model.cache_dir, cannot be used: {exc}") from exc
    except Exception as exc:
        logger.exception("the model cannot be loaded")
        unknown = ModelError(f"the model cannot be loaded: {type(exc).__name__}: {reason(exc)}")
        raise out_of_memory(exc) or unknown from exc


def out_of_memory(error: BaseException) -> ModelError | None:
    """Return what to say if the error is a lack of memory, on a GPU or not."""
    if not _OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
        return None
    return ModelError(
        "there is too little memory for the model: serve a smaller one, lower batcher.max_batch_size or "
        "model.image_size_px, or give the Detector more memory"
    )


def reason(error: BaseException) -> str:
    """Return the line of a library's message that says what is wrong, without where in the library that was found."""
    lines = [_PLACE.sub("", _CODES.sub("", line.strip())) for line in str(error).splitlines()]
    listed = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    said = listed or [line for line in lines if line and not _PREAMBLE.match(line)] or ["no reason given"]
    return said[0] if len(said[0]) <= _MAX_REASON else f"{said[0][:_MAX_REASON]}…"

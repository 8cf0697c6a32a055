"""Model inputs from the tensors of clients."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from serve_app.errors import InvalidParameter
from serve_app.images.planes import write_model_input

PIXELS = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)  # every value in every channel
RGB = PIXELS[..., ::-1].transpose(2, 0, 1)


def recovered(planes: NDArray[np.floating]) -> NDArray[np.uint8]:
    model_input = np.full((*planes.shape[1:], 3), 77, np.uint8)
    write_model_input(planes, model_input)
    return model_input


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("scale", ["divided", "multiplied"])
def test_every_byte_is_recovered(dtype: DTypeLike, scale: str) -> None:
    of_type = RGB.astype(dtype)
    planes = of_type / of_type.dtype.type(255) if scale == "divided" else of_type * of_type.dtype.type(1 / 255)
    assert planes.dtype == dtype
    np.testing.assert_array_equal(recovered(planes), PIXELS)
    np.testing.assert_array_equal(recovered(planes.astype(np.float32)), PIXELS)


def test_a_tensor_may_begin_anywhere_in_the_body() -> None:
    planes = (RGB / 255).astype(np.float32)
    unaligned = np.frombuffer(memoryview(b"x" + planes.tobytes())[1:], np.float32).reshape(planes.shape)
    np.testing.assert_array_equal(recovered(unaligned), PIXELS)


@pytest.mark.parametrize("value", [0.5 / 255, 1 + 0.5 / 255, -1 / 255, 256 / 255, 2.0, np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_other_numbers_are_refused(value: float, channel: int) -> None:
    planes = (RGB / 255).astype(np.float32)
    planes[channel, 7, 9] = value
    with pytest.raises(InvalidParameter, match="no multiples of 1/255"):
        recovered(planes)

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.models.checkpoint.archive import Archive
from serve_app.models.checkpoint.pickle_classes import BFLOAT16
from serve_app.models.checkpoint.unpickler import Storage, Tensor
from tests.support.checkpoints import archive

NUMBERS = np.arange(100, dtype=np.float32)
STORAGE = Storage("0", "<f4", 100)
FEW = Storage("0", "<f4", 50)  # fewer numbers than the archive has


@pytest.fixture
def opened(tmp_path: Path) -> Archive:
    """Open an archive with one storage of 100 numbers."""
    return Archive(archive(tmp_path / "a.pt", b"", {"0": NUMBERS.tobytes()}))


def test_a_tensor_has_the_numbers_at_its_place_in_the_storage(opened: Archive) -> None:
    found = opened.array(Tensor(STORAGE, 10, (3, 2), (1, 20)))
    np.testing.assert_array_equal(found, [[10, 30], [11, 31], [12, 32]])


def test_a_scalar_is_read(opened: Archive) -> None:
    assert opened.array(Tensor(STORAGE, 7, (), ())) == 7


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_bf16_numbers_are_read_as_fp32(shape: tuple[int, ...], tmp_path: Path) -> None:
    numbers = torch.tensor([1.5, -0.0, float("inf"), 3e38], dtype=torch.bfloat16)
    opened = Archive(archive(tmp_path / "a.pt", b"", {"0": numbers.view(torch.int16).numpy().tobytes()}))
    found = opened.array(Tensor(Storage("0", BFLOAT16, 4), 0, shape, (2, 1)[: len(shape)]))
    expected = numbers.float().numpy()[: math.prod(shape)].reshape(shape)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(Tensor(STORAGE, 0, (10, 10), (11, 1)), id="strides that lead outside"),
        pytest.param(Tensor(STORAGE, 1, (100,), (1,)), id="an offset that leads outside"),
        pytest.param(Tensor(STORAGE, -1, (10,), (1,)), id="a negative offset"),
        pytest.param(Tensor(STORAGE, 99, (10,), (-1,)), id="a negative stride"),
        pytest.param(Tensor(STORAGE, 0, (101,), (0,)), id="more numbers than the storage has"),
        pytest.param(Tensor(STORAGE, 0, (1,) * 9, (1,) * 9), id="too many dimensions"),
        pytest.param(Tensor(STORAGE, 0, (10,), (1, 1)), id="a stride without a size"),
        pytest.param(Tensor(STORAGE, True, (10,), (1,)), id="an offset that is not an integer"),
        pytest.param(Tensor(FEW, 0, (10,), (1,)), id="a storage of another size"),
        pytest.param(Tensor(Storage("1", "<f4", 100), 0, (1,), (1,)), id="a storage that is missing"),
        pytest.param(Tensor(Storage("../../0", "<f4", 100), 0, (1,), (1,)), id="a storage outside the archive"),
        pytest.param(Tensor(Storage("0", "O", 50), 0, (1,), (1,)), id="a storage of Python objects"),
        pytest.param(Tensor("0", 0, (1,), (1,)), id="no storage"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(opened: Archive, tensor: Tensor) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        opened.array(tensor)


def test_tensors_that_share_a_storage_cannot_multiply_the_size_of_the_file(opened: Archive) -> None:
    opened.array(Tensor(STORAGE, 0, (100,), (1,)))
    with pytest.raises(ValueError, match="larger than the file"):
        opened.array(Tensor(STORAGE, 0, (100,), (1,)))

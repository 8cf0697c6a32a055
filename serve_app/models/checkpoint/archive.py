"""Read the parts of the archive that ``torch.save`` writes, within limits, and without unpacking it to a disk."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.models.checkpoint.failures import Unaccepted
from serve_app.models.checkpoint.pickle_classes import BFLOAT16, STORAGES
from serve_app.models.checkpoint.unpickler import Storage, Tensor

_MAX_PICKLE_BYTES = 16 * 2**20  # 30 times the size for a large model; ``torch.save`` keeps the tensors outside it
_MAX_DIMENSIONS = 8
_OLD_FORMAT = bytes.fromhex("6cfc9c46f9206aa85019")  # the number at the start of files from before PyTorch 1.6
_OLD_START_BYTES = 64


class Archive:
    """The pickle and the tensors of a checkpoint. If the file is damaged, reading may raise any exception.

    ``torch.save`` compresses nothing. We accept no compressed part, so what we read is never larger than the file. The
    parts are looked up in the archive's own table. So a name such as ``../x`` leads to no other file, and neither does
    a symbolic link.
    """

    def __init__(self, path: Path) -> None:
        self._bytes_left = path.stat().st_size
        with path.open("rb") as file:
            if _OLD_FORMAT in file.read(_OLD_START_BYTES):
                raise Unaccepted("has the format from before PyTorch 1.6, which is not read")
        self._zip = zipfile.ZipFile(path)
        self.names = self._zip.namelist()
        pickles = [name for name in self.names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("an archive of torch.save has one data.pkl")
        self._folder = os.path.dirname(pickles[0])

    def pickle(self) -> bytes:
        """Return the pickle, which describes all objects in the checkpoint."""
        return self._read("data.pkl", _MAX_PICKLE_BYTES)

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """Return a copy of the numbers of a tensor.

        Raise an exception if the tensor reaches beyond its storage, or has more numbers than the storage.
        """
        storage = tensor.storage
        if not isinstance(storage, Storage) or storage.dtype not in STORAGES.values():
            raise TypeError("a tensor needs a storage of numbers")
        shape, strides = _sizes(tensor.shape), _sizes(tensor.strides)
        (length,), (offset,) = _sizes((storage.length,)), _sizes((tensor.offset,))
        dtype = np.dtype("<u2" if storage.dtype == BFLOAT16 else storage.dtype)
        nbytes = length * dtype.itemsize
        if math.prod(shape) > length:
            raise ValueError("a tensor is larger than its storage")
        self._bytes_left -= math.prod(shape) * dtype.itemsize
        if self._bytes_left < 0:
            raise ValueError("the tensors share their storages, and together are larger than the file")
        data = self._read(f"data/{storage.key}", nbytes)
        if len(data) != nbytes:
            raise ValueError("a storage has another size than its tensors")
        strides_bytes = tuple(stride * dtype.itemsize for stride in strides)
        # NumPy refuses a shape with an offset and strides that lead outside ``data``.
        view = np.ndarray(shape, dtype, data, offset * dtype.itemsize, strides_bytes)
        if storage.dtype == BFLOAT16:  # NumPy has no such type; the bits are the upper half of a float32
            return np.asarray(np.left_shift(view, 16, dtype="<u4", order="C")).view("<f4")
        return view.copy(order="C")

    def _read(self, name: str, most: int) -> bytes:
        part = self._zip.getinfo(f"{self._folder}/{name}")
        if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
            raise ValueError("torch.save compresses no part")
        if part.file_size > most:
            raise ValueError("a part is too large")
        return self._zip.read(part)


def _sizes(values: Any) -> tuple[int, ...]:
    """Return sizes, offsets or strides from the file. They must be a short tuple of non-negative integers."""
    if not isinstance(values, tuple) or len(values) > _MAX_DIMENSIONS:
        raise TypeError("sizes are a short tuple")
    if not all(type(value) is int and 0 <= value < 2**40 for value in values):
        raise TypeError("sizes are integers")
    return values

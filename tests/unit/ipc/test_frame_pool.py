from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from serve_app.errors import Overloaded, SharedMemoryError, SlotElsewhere
from serve_app.ipc.dev_shm import FOLDER, run_folder, sweep
from serve_app.ipc.frame_pool import FramePool, SlotReader
from serve_app.types import InputShape, SlotRef

SMALL, LARGE = InputShape.square(32), InputShape.square(64)
OWNER = """
import sys, time
from pathlib import Path
from serve_app.ipc.frame_pool import FramePool
from serve_app.types import InputShape
pool = FramePool(2, InputShape.square(64), Path(sys.argv[1]))
slot = pool.take()
slot.frame(InputShape.square(64))[:] = 42
print(slot.pool, slot.offset, flush=True)
time.sleep(60)
"""


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns a pool in ``tmp_path``. It prints the pool's name and a slot's offset."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_reader_sees_what_the_owner_wrote(tmp_path: Path) -> None:
    pool, reader = FramePool(2, InputShape.square(64), tmp_path), SlotReader(tmp_path)
    with pool.lease() as slot:
        slot.frame(LARGE)[:] = 7
        assert (reader.view(slot.ref(LARGE))[0] == 7).all()
    pool.close()
    reader.close()


def test_a_frame_that_would_reach_into_the_next_slot_is_refused(tmp_path: Path) -> None:
    pool = FramePool(2, SMALL, tmp_path)
    slot = pool.take()
    for use in slot.frame, slot.ref:
        with pytest.raises(ValueError, match="a frame of the shape 64x64 does not fit into a slot for 32x32"):
            use(LARGE)
    assert slot.frame(InputShape(16, 64)).shape == (16, 64, 3)
    pool.close()


def test_the_flag_of_a_frame_in_an_engine_outlives_its_reader(tmp_path: Path) -> None:
    pool = FramePool(2, InputShape.square(32), tmp_path)
    first, second = pool.take(), pool.take()
    for slot in first, second:
        slot.frame(SMALL)[:] = 255
        slot.clear_flag()
    script = """
import os, signal, sys
from pathlib import Path
from serve_app.ipc.frame_pool import SlotReader
from serve_app.types import InputShape, SlotRef
ref = SlotRef(sys.argv[2], int(sys.argv[3]), InputShape.square(32))
pixels, in_engine = SlotReader(Path(sys.argv[1])).view(ref)
in_engine[0] = 1
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path), pool.name, str(first.offset)], check=False)
    assert (first.was_in_engine, second.was_in_engine) == (True, False)
    first.clear_flag()
    assert not first.was_in_engine
    assert (first.frame(SMALL) == 255).all()
    pool.close()


def test_slots_do_not_overlap(tmp_path: Path) -> None:
    shape = InputShape.square(33)
    pool = FramePool(3, shape, tmp_path)
    slots = [pool.take() for _ in range(3)]
    for value, slot in enumerate(slots):
        slot.frame(shape)[:] = value
    assert [int(np.unique(slot.frame(shape)).item()) for slot in slots] == [0, 1, 2]
    pool.close()


def test_a_slot_holds_frames_of_every_smaller_shape(tmp_path: Path) -> None:
    pool, reader = FramePool(2, LARGE, tmp_path), SlotReader(tmp_path)
    with pool.lease() as slot:
        for shape in (LARGE, InputShape(32, 64), InputShape(64, 32)):
            pixels = np.random.default_rng(0).integers(0, 256, shape.array, np.uint8)
            slot.frame(shape)[:] = pixels
            assert np.array_equal(reader.view(slot.ref(shape))[0], pixels)
    pool.close()
    reader.close()


def test_a_flag_that_is_cleared_late_does_not_change_the_next_frame(tmp_path: Path) -> None:
    """A cancelled frame may be in the engine when its slot already has the next frame, of another shape."""
    pool, reader = FramePool(1, LARGE, tmp_path), SlotReader(tmp_path)
    with pool.lease() as slot:
        _, in_engine = reader.view(slot.ref(SMALL))
        in_engine[0] = 1
        slot.frame(LARGE)[:] = 255
        in_engine[0] = 0
        assert (slot.frame(LARGE) == 255).all()
    pool.close()
    reader.close()


def test_a_slot_is_free_again_after_an_error(tmp_path: Path) -> None:
    pool = FramePool(1, InputShape.square(32), tmp_path)
    with pytest.raises(ZeroDivisionError), pool.lease():
        raise ZeroDivisionError
    assert pool.leased == 0
    pool.close()


def test_more_leases_than_slots_are_refused_at_once(tmp_path: Path) -> None:
    pool = FramePool(1, InputShape.square(32), tmp_path)
    with pool.lease(), pytest.raises(Overloaded, match=r"^preprocessor\.slots: all 1 frame slots") as refusal:
        pool.take()
    assert refusal.value.limit == "preprocessor.slots"
    pool.close()


def test_a_closed_pool_leaves_nothing(tmp_path: Path) -> None:
    FramePool(1, InputShape.square(32), tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_pool_leaves_nothing(tmp_path: Path) -> None:
    FramePool(1, InputShape.square(32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_pool_removes_the_file_of_a_killed_owner(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    name = line_of(owner).split()[0]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert (tmp_path / name).exists()
    pool = FramePool(1, InputShape.square(32), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [pool.name]
    pool.close()


def test_the_pool_of_a_living_owner_is_not_swept(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    name = line_of(owner).split()[0]
    assert sweep(tmp_path) == 0
    assert (tmp_path / name).exists()


def test_a_reader_keeps_its_mapping_when_the_owner_is_killed(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    name, offset = line_of(owner).split()
    ref = SlotRef(name, int(offset), InputShape.square(64))
    view, _ = SlotReader(tmp_path).view(ref)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert sweep(tmp_path) == 1
    assert (view == 42).all()


def test_a_reader_drops_pools_that_are_gone(tmp_path: Path) -> None:
    # A reference cycle, such as that of an exception and its traceback, may keep a pool of an earlier test alive. We
    # collect such a pool now. Otherwise, the old pool could close its descriptors during the comparison below.
    gc.collect()
    reader = SlotReader(tmp_path)
    descriptors = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        pool = FramePool(1, InputShape.square(32), tmp_path)
        reader.view(pool.take().ref(SMALL))
        pool.close()
    last = FramePool(1, InputShape.square(32), tmp_path)
    reader.view(last.take().ref(SMALL))
    last.close()
    reader.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("name", ["sightline-0123456789abcdef", "../../etc/passwd", "sightline-../x", "other"])
def test_an_unknown_pool_is_reported_as_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(SlotElsewhere):
        SlotReader(tmp_path).view(SlotRef(name, 0, InputShape.square(32)))


def test_too_little_shared_memory_is_an_error_and_leaves_nothing() -> None:
    with TemporaryDirectory(dir=FOLDER) as folder:
        with pytest.raises(SharedMemoryError, match="--shm-size"):
            FramePool(10_000_000, InputShape.square(640), Path(folder))
        assert os.listdir(folder) == []


def test_a_run_folder_is_removed_only_when_its_owner_is_dead(tmp_path: Path) -> None:
    with run_folder(tmp_path) as folder:
        (folder / "file").touch()
        os.utime(folder, (0, 0))
        assert sweep(tmp_path) == 0
    assert not folder.exists()
    left = tmp_path / "sightline-of-a-dead-process"
    left.mkdir()
    (left / "file").touch()
    assert sweep(tmp_path) == 0  # perhaps the owner of a new folder has not locked the folder yet
    os.utime(left, (0, 0))
    assert sweep(tmp_path) == 1
    assert not left.exists()


def test_a_run_folder_in_unwritable_shared_memory_is_an_error() -> None:
    with pytest.raises(SharedMemoryError, match="mount a tmpfs"), run_folder(Path("/proc")):
        pass

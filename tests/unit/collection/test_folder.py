"""Tests of the folder that several processes share, with a fake clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from serve_app.collection.dataset import Dataset, dataset_name
from serve_app.collection.folder import CollectionFolder, Refusal
from serve_app.collection.selection import Reason
from serve_app.images.drawing import encode_jpeg
from tests.support.clock import Clock
from tests.support.collected import GREY, MODEL, answer, kept_stems, reasons_of, settings
from tests.support.file_sizes import files_of_at_most

JPEG = encode_jpeg(GREY)
LARGE = encode_jpeg(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
QUOTA = 1 << 20
NOW_S = 1.8e9
FOUND = answer(("dog", 0.4), ("person", 0.9))


class Replica:
    """A process that keeps images in a folder."""

    def __init__(self, folder: Path, clock: Clock, **limits: Any) -> None:
        self.folder = CollectionFolder(settings(folder, **limits), folder, clock)
        self.dataset = Dataset(folder, MODEL)

    def keep(
        self, jpeg: bytes = JPEG, reason: Reason = "uncertain", new: frozenset[int] = frozenset()
    ) -> Refusal | None:
        return self.folder.keep(self.dataset, jpeg, FOUND, reason, "lot", new)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW_S)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*/*"))


def test_an_image_is_kept_with_its_labels_and_the_names_of_the_classes(tmp_path: Path, clock: Clock) -> None:
    assert Replica(tmp_path, clock).keep() is None
    (stem,) = kept_stems(tmp_path)
    assert stem.startswith("20270115T080000000000Z-uncertain-lot-")
    dataset = tmp_path / dataset_name("best", MODEL.labels)
    assert (dataset / f"images/{stem}.jpg").read_bytes() == JPEG
    assert (dataset / f"labels/{stem}.txt").read_text() == (
        "1 0.250000 0.500000 0.250000 0.666667 0.4000\n0 0.250000 0.500000 0.250000 0.666667 0.9000\n"
    )
    described = yaml.safe_load((dataset / "data.yaml").read_text())
    assert described == {"train": "images", "val": "images", "names": {0: "person", 1: "dog", 2: "cat"}}


def test_only_the_owner_can_read_the_images(tmp_path: Path, clock: Clock) -> None:
    Replica(tmp_path, clock).keep()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in [*files, *tmp_path.glob("*/")]} == {0}


def test_models_with_other_classes_have_a_dataset_of_their_own() -> None:
    names = {dataset_name("best", ("a", "b")), dataset_name("best", ("a", "c")), dataset_name("other", ("a", "b"))}
    assert len(names) == 3
    assert dataset_name("../../etc/x y", ("a",)).startswith("_.._etc_x_y-")


def test_the_rate_limit_applies_to_all_replicas_together(tmp_path: Path, clock: Clock) -> None:
    first, second = (Replica(tmp_path, clock, max_per_minute=6) for _ in range(2))
    kept = [replica.keep() for _ in range(6) for replica in (first, second)]
    assert kept == [None] * 6 + ["rate_limit"] * 6
    assert first.folder.credit_wait_s() == pytest.approx(10)
    clock.now_s += 10
    assert (first.folder.credit_wait_s(), second.keep(), first.keep()) == (0, None, "rate_limit")


def test_a_clock_that_is_set_back_does_not_stop_the_collection(tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock, max_per_minute=6)
    for _ in range(6):
        replica.keep()
    clock.now_s -= 1  # another machine's clock may be late
    assert replica.keep() == "rate_limit"
    clock.now_s -= 86_400
    assert replica.keep() is None


def test_the_oldest_images_of_all_replicas_make_way_for_new_ones(tmp_path: Path, clock: Clock) -> None:
    replicas = [Replica(tmp_path, clock, max_disk_gib=QUOTA / 2**30) for _ in range(2)]
    for number in range(60):
        clock.now_s += 1
        replicas[number % 2].keep(LARGE)
        assert bytes_in(tmp_path) <= QUOTA
    stems = kept_stems(tmp_path)
    assert len(stems) == pytest.approx(QUOTA / (len(LARGE) + 4096), rel=0.15)
    times = [60 * int(stem[11:13]) + int(stem[13:15]) for stem in stems]
    assert times == list(range(61 - len(stems), 61))


def test_an_image_above_the_quota_is_refused_and_deletes_nothing(tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock, max_disk_gib=32_768 / 2**30)
    assert (replica.keep(), replica.keep(LARGE)) == (None, "quota")
    assert len(kept_stems(tmp_path)) == 1


def test_images_that_are_too_old_are_deleted_once_in_ten_minutes(tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock, max_age_days=1)
    replica.keep()
    clock.now_s += 86_000
    replica.keep()
    replica.folder.sweep()
    assert len(kept_stems(tmp_path)) == 2
    clock.now_s += 500  # the first image is now too old
    replica.folder.sweep()
    assert len(kept_stems(tmp_path)) == 2
    clock.now_s += 101
    replica.folder.sweep()
    assert len(kept_stems(tmp_path)) == 1


def test_files_of_others_are_neither_deleted_nor_counted(tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock, max_age_days=1)
    replica.keep()
    (dataset,) = tmp_path.glob("*/")
    others = [tmp_path / "notes.txt", dataset / "images/mine.jpg", dataset / "labels/mine.txt", tmp_path / "b/images/a"]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    clock.now_s += 2 * 86_400
    replica.folder.sweep()
    assert [path.exists() for path in others] == [True] * 4
    assert list(dataset.glob("images/2*")) == []


def test_a_file_of_another_program_named_images_does_not_stop_the_collection(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/images").write_text("no folder")
    assert Replica(tmp_path, clock).keep() is None
    assert len(kept_stems(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["", "5", "[[1]]", '["a"]', '{"a": 1}', "null"])
def test_damaged_classes_are_collected_again(damage: str, tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock)
    replica.keep(new=frozenset({1}))
    (tmp_path / dataset_name(MODEL.name, MODEL.labels) / "seen.json").write_text(damage)
    assert replica.dataset.read_seen() == set()
    replica.keep(new=frozenset({2}))
    assert replica.dataset.read_seen() == {2}


def test_what_a_killed_process_has_left_is_deleted(tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock)
    replica.keep()
    (stem,) = kept_stems(tmp_path)
    (dataset,) = tmp_path.glob("*/")
    other = stem[:-8] + "00000000"
    orphans = [
        dataset / f"labels/{other}.txt",
        dataset / f"images/{other}.jpg.part",
        dataset / f"labels/{other}.txt.part",
    ]
    for path in orphans:
        path.write_bytes(b"unfinished")
    clock.now_s += 601
    replica.folder.sweep()
    assert [path.exists() for path in orphans] == [False] * 3
    assert kept_stems(tmp_path) == [stem]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"size_bytes": -1}'])
def test_a_damaged_state_is_made_again_from_the_files(damage: bytes, tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock, max_disk_gib=QUOTA / 2**30)
    for _ in range(5):
        replica.keep(LARGE)
    (tmp_path / ".state").write_bytes(damage)
    for number in range(60):
        clock.now_s += 1
        replica.keep(LARGE)
        assert bytes_in(tmp_path) <= QUOTA, number


def test_neither_image_nor_labels_stay_if_the_disk_is_full(tmp_path: Path, clock: Clock) -> None:
    replica = Replica(tmp_path, clock)
    replica.keep()
    with files_of_at_most(4096), pytest.raises(OSError):  # noqa: PT011  # any error of the disk
        replica.keep(LARGE)
    (dataset,) = tmp_path.glob("*/")
    assert [len(list(dataset.glob(f"{name}/*"))) for name in ("images", "labels")] == [1, 1]
    assert replica.keep(LARGE) is None


def test_a_missing_folder_is_not_created(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(FileNotFoundError):
        Replica(tmp_path / "unmounted", clock).keep()


def test_classes_that_were_kept_as_new_ones_are_saved(tmp_path: Path, clock: Clock) -> None:
    first, second = Replica(tmp_path, clock), Replica(tmp_path, clock)
    assert first.dataset.read_seen() == set()
    first.keep(reason="new_class", new=frozenset({1}))
    second.keep(reason="new_class", new=frozenset({0}))
    assert first.dataset.read_seen() == {0, 1}
    assert reasons_of(kept_stems(tmp_path)) == ["new_class"] * 2
    other = replace(MODEL, engine=replace(MODEL.engine, labels=("cat",)))
    assert Dataset(tmp_path, other).read_seen() == set()

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from serve_app.collection.dataset import Dataset, dataset_name, label_lines
from serve_app.collection.export import Exported, ExportFailed, export
from serve_app.images.drawing import encode_jpeg
from tests.support.collected import GREY, LABELS, MODEL, answer
from tests.support.command import sightline

FOUND = answer(("dog", 0.4), ("person", 0.9))


def keep(folder: Path, count: int) -> Path:
    """Keep images, and return the folder of their dataset."""
    folder.mkdir(exist_ok=True)
    dataset = Dataset(folder, MODEL)
    for number in range(count):
        dataset.add(f"2027-uncertain-lot-{number:08x}", encode_jpeg(GREY), label_lines(FOUND).encode())
    return folder / dataset_name(MODEL.name, LABELS)


def checked(target: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what Ultralytics' check of a dataset returns, and check each image and label with its own function."""
    from ultralytics.data import utils

    monkeypatch.setattr(utils, "check_font", lambda name: None)  # it would download a font
    found: dict[str, Any] = utils.check_det_dataset(str(target / "data.yaml"))
    for part in ("train", "val"):
        pictures = sorted(Path(found[part]).glob("*.jpg"))
        assert pictures
        for picture, label in zip(pictures, utils.img2label_paths([str(one) for one in pictures]), strict=True):
            one = utils.verify_image_label((str(picture), label, "", False, found["nc"], 0, 0, False))
            assert (one[5:9], one[9]) == ((0, 1, 0, 0), ""), one[9]
            assert one[1].shape == (2, 5)
            assert sorted(one[1][:, 0].tolist()) == [0, 1]
            assert np.allclose(one[1][:, 1:], [[0.25, 0.5, 0.25, 2 / 3]] * 2, atol=1e-5)
    return found


def test_ultralytics_accepts_an_exported_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "kept", 30)
    exported = export(tmp_path / "kept", tmp_path / "dataset")
    assert exported.train + exported.val == 30
    assert 1 <= exported.val <= 8
    assert checked(tmp_path / "dataset", monkeypatch)["names"] == dict(enumerate(LABELS))


def test_ultralytics_accepts_an_exported_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "kept", 2)
    assert export(tmp_path / "kept", tmp_path / "dataset.zip") == Exported(train=1, val=1)
    with zipfile.ZipFile(tmp_path / "dataset.zip") as archive:
        archive.extractall(tmp_path / "dataset")
    checked(tmp_path / "dataset", monkeypatch)


def test_ultralytics_refuses_the_kept_labels_themselves(tmp_path: Path) -> None:
    """This is why an export leaves out the confidence."""
    from ultralytics.data.utils import verify_image_label

    dataset = keep(tmp_path, 1)
    (picture,) = dataset.glob("images/*.jpg")
    (label,) = dataset.glob("labels/*.txt")
    refused = verify_image_label((str(picture), str(label), "", False, 3, 0, 0, False))
    assert "labels require 5 columns, 6 columns detected" in refused[9]


def test_an_image_stays_in_the_same_part_in_a_later_export(tmp_path: Path) -> None:
    keep(tmp_path / "kept", 100)
    export(tmp_path / "kept", tmp_path / "first")
    keep(tmp_path / "kept", 200)
    export(tmp_path / "kept", tmp_path / "second")
    parts = [
        {part: {path.name for path in (tmp_path / name / "images" / part).glob("*")} for part in ("train", "val")}
        for name in ("first", "second")
    ]
    assert len(parts[0]["train"] | parts[0]["val"]) == 100
    assert [parts[0][part] <= parts[1][part] for part in ("train", "val")] == [True, True]


def test_images_that_lack_labels_are_left_out(tmp_path: Path) -> None:
    dataset = keep(tmp_path / "kept", 4)
    min(dataset.glob("labels/*.txt")).unlink()
    (dataset / "labels/2027-uncertain-lot-ffffffff.txt").write_text("0 0.5 0.5 1 1 0.5\n")
    (dataset / "images/2027-uncertain-lot-ffffffff.jpg.part").write_bytes(b"unfinished")
    exported = export(tmp_path / "kept", tmp_path / "dataset")
    assert exported.train + exported.val == 3
    assert len(list((tmp_path / "dataset").glob("*/*/2*"))) == 6


@pytest.mark.parametrize("count", [0, 1])
def test_a_dataset_that_cannot_be_split_is_refused(count: int, tmp_path: Path) -> None:
    keep(tmp_path / "kept", 2)
    for path in sorted(tmp_path.glob("kept/*/images/*"))[count:]:
        path.unlink()
    with pytest.raises(ExportFailed, match="it needs at least one image to train and one to validate"):
        export(tmp_path / "kept", tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_one_of_several_datasets_must_be_chosen(tmp_path: Path) -> None:
    chosen = keep(tmp_path / "kept", 2)
    (tmp_path / "kept/other").mkdir()
    (tmp_path / "kept/other/data.yaml").write_text(yaml.safe_dump({"names": {0: "cat"}}))
    with pytest.raises(ExportFailed, match=rf"several datasets \({chosen.name}, other\): choose one"):
        export(tmp_path / "kept", tmp_path / "dataset")
    assert export(chosen, tmp_path / "dataset") == Exported(1, 1)


def test_an_existing_target_is_not_overwritten(tmp_path: Path) -> None:
    keep(tmp_path / "kept", 2)
    (tmp_path / "dataset").mkdir()
    with pytest.raises(ExportFailed, match="already exists: choose another name"):
        export(tmp_path / "kept", tmp_path / "dataset")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    label = max((keep(tmp_path / "kept", 2) / "labels").iterdir())
    label.write_bytes(b"\xff\xfe")
    with pytest.raises(ExportFailed, match=f"{label.name} is not a label file"):
        export(tmp_path / "kept", tmp_path / "out/dataset")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_exports_and_says_how_many_images(tmp_path: Path) -> None:
    keep(tmp_path / "kept", 2)
    done = sightline("collect", "export", tmp_path / "kept", tmp_path / "a.zip")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'a.zip'}: 1 for training, 1 for validation\n")
    again = sightline("collect", "export", tmp_path / "kept", tmp_path / "a.zip")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"{tmp_path / 'a.zip'} already exists: choose another name, or delete it\n"
    missing = sightline("collect", "export", tmp_path / "nothing", tmp_path / "b.zip")
    assert "has no dataset: give the folder of the setting collect.folder" in missing.stderr


def test_a_target_inside_the_collection_is_refused(tmp_path: Path) -> None:
    """The collection would then have two datasets, and the next export would have to choose one of them."""
    dataset = keep(tmp_path / "kept", 3)
    for target in (tmp_path / "kept/dataset", dataset / "dataset.zip"):
        with pytest.raises(ExportFailed, match="is inside"):
            export(tmp_path / "kept", target)


def test_the_suffix_of_a_zip_file_may_be_in_capitals(tmp_path: Path) -> None:
    keep(tmp_path / "kept", 2)
    export(tmp_path / "kept", tmp_path / "dataset.ZIP")
    assert zipfile.is_zipfile(tmp_path / "dataset.ZIP")


@pytest.mark.parametrize("text", ["", "names: [a, b", "names: 3", "train: images"])
def test_a_damaged_description_is_named(text: str, tmp_path: Path) -> None:
    (keep(tmp_path / "kept", 2) / "data.yaml").write_text(text)
    with pytest.raises(ExportFailed, match=r"data\.yaml has no valid names of classes"):
        export(tmp_path / "kept", tmp_path / "dataset")


def test_names_may_be_a_list_as_in_other_datasets(tmp_path: Path) -> None:
    (keep(tmp_path / "kept", 2) / "data.yaml").write_text("names: [a, b]")
    export(tmp_path / "kept", tmp_path / "dataset")
    assert yaml.safe_load((tmp_path / "dataset/data.yaml").read_text())["names"] == {0: "a", 1: "b"}

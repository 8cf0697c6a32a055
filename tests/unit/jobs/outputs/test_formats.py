from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from pycocotools.coco import COCO

from serve_app.jobs.outputs import file_name, write_format
from serve_app.schemas.jobs import Format
from tests.support.job_results import StoredResults, example, line

parquet: Any = import_module("pyarrow.parquet")  # it has no type annotations

KINDS: tuple[Format, ...] = get_args(Format)


def written(kind: Format, results: StoredResults, folder: Path) -> Path:
    path = folder / file_name(kind)
    write_format(kind, results, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_results_give_the_same_bytes(kind: Format, tmp_path: Path) -> None:
    files = [write_format(kind, example(), tmp_path / each / file_name(kind)) for each in ("first", "second")]
    assert files[0] == files[1]
    assert len({(tmp_path / each / file_name(kind)).read_bytes() for each in ("first", "second")}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_without_results_gives_a_valid_file(kind: Format, tmp_path: Path) -> None:
    path = written(kind, StoredResults([]), tmp_path)
    rows: Any = {
        "jsonl": lambda: path.read_text(),
        "csv": lambda: list(csv.DictReader(path.open())),
        "coco": lambda: COCO(path).anns,
        "yolo": lambda: zipfile.ZipFile(path).read("classes.txt").decode(),
        "parquet": lambda: _parquet(path),
    }
    assert not rows[kind]()


def test_json_lines_are_the_stored_results(tmp_path: Path) -> None:
    lines = written("jsonl", example(), tmp_path).read_text("utf-8").splitlines()
    assert [json.loads(text) for text in lines] == list(example().lines)


def test_csv_has_a_line_per_box(tmp_path: Path) -> None:
    with written("csv", example(), tmp_path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["item"], row["name"], row["label"]) for row in rows] == [
        ("0", "day/a.jpg", "dog"),
        ("0", "day/a.jpg", "cat"),
        ("3", '=1+1,"x"\n.png', "dog"),
        ("65539", "lot.mp4", "Hütte"),
    ]
    assert rows[0] == {
        "item": "0",
        "name": "day/a.jpg",
        "id": "",
        "time_s": "",
        "width": "200",
        "height": "100",
        "model": "yolov8n@3f9c",
        "label": "dog",
        "class_id": "16",
        "confidence": "0.9",
        "x1": "10.0",
        "y1": "20.0",
        "x2": "60.5",
        "y2": "70.25",
    }
    assert (rows[2]["id"], rows[3]["time_s"]) == ("mine", "12.04")


def test_pycocotools_loads_coco(tmp_path: Path) -> None:
    path = written("coco", example(), tmp_path)
    coco = COCO(path)
    assert {number: image["file_name"] for number, image in coco.imgs.items()} == {
        each["item"]: each["name"] for each in example().lines
    }
    assert coco.imgs[65_539]["time_s"] == 12.04
    assert {number: category["name"] for number, category in coco.cats.items()} == {2: "Hütte", 15: "cat", 16: "dog"}
    assert coco.getImgIds(catIds=coco.getCatIds(["dog"])) == [0, 3]
    (dog, _) = coco.loadAnns(coco.getAnnIds(imgIds=[0]))
    assert (dog["bbox"], dog["area"], dog["score"]) == ([10.0, 20.0, 50.5, 50.25], 2537.62, 0.9)
    assert min(coco.anns) == 1  # pycocotools takes the id 0 for "no match"
    results = coco.loadRes(json.loads(path.read_text("utf-8"))["annotations"])
    assert len(results.anns) == 4


def test_two_labels_of_one_class_id_are_two_coco_categories(tmp_path: Path) -> None:
    box = 0.5, (0.0, 0.0, 1.0, 1.0)
    lines = [line(0, "a.jpg", ("lorry", 7, *box)), line(1, "b.jpg", ("bus", 7, *box), ("car", 8, *box))]
    coco = COCO(written("coco", StoredResults(lines), tmp_path))
    assert {number: category["name"] for number, category in coco.cats.items()} == {7: "bus", 8: "car", 9: "lorry"}
    assert [coco.anns[number]["category_id"] for number in (1, 2, 3)] == [9, 7, 8]


def test_yolo_labels_have_the_names_of_their_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(written("yolo", example(), tmp_path)) as archive:
        assert archive.testzip() is None
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert texts.pop("classes.txt").splitlines() == [
        "class 0",
        "class 1",
        "Hütte",
        *(f"class {number}" for number in range(3, 15)),
        "cat",
        "dog",
    ]
    assert list(texts) == [
        "labels/day/a.txt",
        "labels/day/empty.txt",
        "labels/=1+1,_x__.txt",
        "labels/lot_65539.txt",
    ]
    assert texts["labels/day/a.txt"].splitlines() == [
        "16 0.176250 0.451250 0.252500 0.502500 0.9000",
        "15 0.500000 0.500000 1.000000 1.000000 0.5000",
    ]
    assert texts["labels/day/empty.txt"] == ""


def test_yolo_names_are_unique_and_stay_inside_the_folder(tmp_path: Path) -> None:
    names = (
        "a.jpg",
        "a.png",
        "A.JPG",
        "../../etc/passwd",
        "/photos/x.jpg",
        "C:\\pictures\\y.jpg",
        "https://host/p/z.jpg?w=1",
        "..",
        "",
        "con/" + "é" * 300 + ".jpg",
        "a.jpg",
    )
    results = StoredResults([line(number, name) for number, name in enumerate(names)])
    with zipfile.ZipFile(written("yolo", results, tmp_path)) as archive:
        found = archive.namelist()[:-1]
        archive.extractall(tmp_path / "out")
    assert found == [
        "labels/a.txt",
        "labels/a_1.txt",
        "labels/A_2.txt",
        "labels/etc/passwd.txt",
        "labels/photos/x.txt",
        "labels/C_/pictures/y.txt",
        "labels/https_/host/p/z.txt",
        "labels/image.txt",
        "labels/image_8.txt",
        f"labels/con/{'é' * 96}.txt",
        "labels/a_10.txt",
    ]
    assert len(list((tmp_path / "out" / "labels").rglob("*.txt"))) == len(names)


def test_parquet_has_a_row_per_box(tmp_path: Path) -> None:
    rows = _parquet(written("parquet", example(), tmp_path))
    assert [(row["item"], row["label"], row["x2"]) for row in rows] == [
        (0, "dog", 60.5),
        (0, "cat", 200.0),
        (3, "dog", 3.0),
        (65_539, "Hütte", 1.0),
    ]
    assert [(row["id"], row["time_s"]) for row in rows] == [(None, None), (None, None), ("mine", None), (None, 12.04)]


def test_parquet_is_written_in_groups_of_rows(tmp_path: Path) -> None:
    box = "dog", 16, 0.5, (0.0, 0.0, 1.0, 1.0)
    results = StoredResults([line(number, f"{number}.jpg", *[box] * 50) for number in range(2000)])
    with parquet.ParquetFile(written("parquet", results, tmp_path)) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [65_536, 34_464]


@pytest.mark.parametrize("kind", ["csv", "coco", "yolo"])
def test_many_results_do_not_need_much_memory(kind: Format, tmp_path: Path) -> None:
    """Compare two sizes in processes of their own, because a process never returns all memory."""
    peaks = [_peak_mib(kind, count, tmp_path) for count in (1_000, 20_000)]
    assert peaks[1] - peaks[0] < 8  # Python's ``zipfile`` would need 14 MiB


def _peak_mib(kind: Format, count: int, folder: Path) -> float:
    code = (
        "import resource, sys; from tests.unit.jobs.outputs.test_formats import many; "
        "from serve_app.jobs.outputs import write_format; from pathlib import Path; "
        f"write_format({kind!r}, many({count}), Path({str(folder / 'file')!r})); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


class _Lines:
    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        box = "dog", 16, 0.5, (0.0, 0.0, 1.0, 1.0)
        return (line(number, f"folder/{number:09d}.jpg", box, box) for number in range(self._count))


def many(count: int) -> StoredResults:
    """Return results that are made while they are read."""
    return StoredResults(_Lines(count))


def _parquet(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    return rows

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppArgs, parse_args
from serve_app.errors import InvalidParameter, NoSpace, Unavailable
from serve_app.jobs import outputs
from serve_app.jobs.outputs import OutputUnwritable, check_outputs, write_outputs
from serve_app.jobs.outputs.places import FolderPlace
from serve_app.schemas.jobs import FilesSource, JobSpec
from tests.support.job_results import example


def spec(*wanted: dict[str, Any]) -> JobSpec:
    return JobSpec(id="night", source=FilesSource(type="files", path="in"), outputs=list(wanted))


@pytest.fixture
def args(tmp_path: Path) -> AppArgs:
    (tmp_path / "out").mkdir()
    return parse_args(
        {"streams": {"output_dir": str(tmp_path / "out")}, "jobs": {"allowed_uris": "s3://dock/out/ gs://in az://a/b"}}
    )


def write(tmp_path: Path, args: AppArgs, *wanted: dict[str, Any]) -> list[tuple[int, int, str]]:
    reports: list[tuple[int, int, str]] = []
    write_outputs(spec(*wanted), example(), tmp_path / "job", args, report=lambda *report: reports.append(report))
    return reports


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_output_has_json_lines_its_formats_the_failures_and_a_manifest(tmp_path: Path, args: AppArgs) -> None:
    reports = write(tmp_path, args, {"uri": "night/28", "formats": ["coco", "csv"], "crops": True})
    files = contents(tmp_path / "out")
    assert files.keys() == {
        f"night/28/{name}" for name in ("results.jsonl", "coco.json", "results.csv", "failed.jsonl", "manifest.json")
    }
    assert reports == [(0, count, "") for count in (1, 2, 3, 4, 5)]
    manifest = json.loads(files["night/28/manifest.json"])
    assert (manifest["job_id"], manifest["succeeded"], manifest["failed"]) == ("night", 4, 2)
    assert manifest["image_folders"] == ["crops"]
    assert {each["name"]: (each["size_bytes"], each["sha256"]) for each in manifest["files"]} == {
        name.removeprefix("night/28/"): (len(data), hashlib.sha256(data).hexdigest())
        for name, data in files.items()
        if not name.endswith("manifest.json")
    }


def test_failures_are_one_per_line(tmp_path: Path, args: AppArgs) -> None:
    write(tmp_path, args, {"uri": "x"})
    lines = (tmp_path / "out" / "x" / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        failure.model_dump(exclude_none=True) for failure in example().failures()
    ]


def test_a_repeated_export_overwrites_itself_with_the_same_bytes(tmp_path: Path, args: AppArgs) -> None:
    wanted = {"uri": "x", "formats": ["jsonl", "csv", "coco", "yolo", "parquet"]}, {"uri": ""}
    write(tmp_path, args, *wanted)
    first = contents(tmp_path)
    write(tmp_path, args, *wanted)
    assert contents(tmp_path) == first
    assert {name for name in first if name.startswith("job/")} == {
        f"job/results/{name}"
        for name in (
            "results.jsonl",
            "results.csv",
            "coco.json",
            "yolo.zip",
            "results.parquet",
            "failed.jsonl",
            "manifest.json",
        )
    }


def test_the_manifest_is_written_last(tmp_path: Path, args: AppArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(place: FolderPlace, path: Path) -> None:
        if path.name == "failed.jsonl":
            raise NoSpace("full")
        copy(place, path)

    copy = FolderPlace.copy
    monkeypatch.setattr(FolderPlace, "copy", fail)
    with pytest.raises(NoSpace):
        write(tmp_path, args, {"uri": "x"})
    assert contents(tmp_path / "out").keys() == {"x/results.jsonl"}


def test_a_place_that_fails_does_not_keep_the_others_from_being_written(
    tmp_path: Path, args: AppArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"a": OutputUnwritable("never"), "b": Unavailable("not now")}

    def fail(place: FolderPlace, path: Path) -> None:
        if place._folder.name in errors:
            raise errors[place._folder.name]
        copy(place, path)

    copy = FolderPlace.copy
    monkeypatch.setattr(FolderPlace, "copy", fail)
    reports: list[tuple[int, int, str]] = []
    with pytest.raises(Unavailable):  # it is tried again, so the permanent error is not the last word
        write_outputs(
            spec({"uri": "a"}, {"uri": "b"}, {"uri": "c"}),
            example(),
            tmp_path / "job",
            args,
            report=lambda *report: reports.append(report),
        )
    assert (0, 0, "never") in reports
    assert (1, 0, "not now") in reports
    assert reports[-1] == (2, 3, "")
    del errors["b"]
    with pytest.raises(OutputUnwritable):
        write(tmp_path, args, {"uri": "a"}, {"uri": "b"})


def test_what_a_killed_export_left_behind_is_removed(tmp_path: Path, args: AppArgs) -> None:
    (tmp_path / "out" / "x").mkdir()
    (tmp_path / "out" / "x" / ".sightline-abc.part").write_bytes(b"half")
    write(tmp_path, args, {"uri": "x"})
    assert not [name for name in os.listdir(tmp_path / "out" / "x") if name.endswith(".part")]


@pytest.mark.parametrize(
    "uri",
    ["", "x", "x/y/", "s3://dock/out", "s3://dock/out/", "s3://dock/out/28/x", "gs://in", "gs://in/x", "az://a/b/c"],
)
def test_places_that_are_allowed(uri: str, args: AppArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "dock")
    check_outputs(spec({"uri": uri}), args)


@pytest.mark.parametrize(
    "uri",
    [
        ".",
        "..",
        "../x",
        "/etc",
        "x/../../y",
        "x\0",
        "https://host/x",
        "file:///tmp/x",
        "s3://",
        "s3:///dock/out/x",
        "s3://dock",
        "s3://dock/outer/x",
        "s3://dock/out/../x",
        "s3://dock.evil/out/x",
        "s3://key:secret@dock/out/x",
        "s3://dock/out/x?endpoint=http://127.0.0.1",
        "s3://dock/out/x#y",
        "s3://dock/out/\n",
        "gs://inner/x",
        "S3://dock/outx",
    ],
)
def test_places_that_are_refused(uri: str, args: AppArgs) -> None:
    with pytest.raises(InvalidParameter):
        check_outputs(spec({"uri": uri}), args)


def test_a_link_does_not_lead_out_of_the_output_folder(tmp_path: Path, args: AppArgs) -> None:
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidParameter):
        check_outputs(spec({"uri": "link/x"}), args)


def test_a_bucket_without_an_account_is_refused(args: AppArgs) -> None:
    with pytest.raises(InvalidParameter, match="az://"):
        check_outputs(spec({"uri": "az://a/b/c"}), args)


def test_without_settings_only_the_jobs_own_folder_is_allowed() -> None:
    check_outputs(spec({"uri": ""}), parse_args({}))
    for uri, setting in (("x", "SERVE_APP_OUTPUT_DIR"), ("s3://dock/x", "SERVE_APP_JOBS_ALLOWED_URIS")):
        with pytest.raises(InvalidParameter, match=setting):
            check_outputs(spec({"uri": uri}), parse_args({}))


def test_two_outputs_in_one_place_are_refused(args: AppArgs) -> None:
    with pytest.raises(InvalidParameter, match="two outputs"):
        check_outputs(spec({"uri": "x"}, {"uri": "x/"}), args)


def test_images_need_a_place_from_which_clients_can_read_them(args: AppArgs) -> None:
    for kind in ("annotated", "crops"):
        with pytest.raises(InvalidParameter, match=r"^outputs: annotated and crops need a uri, .*SERVE_APP_OUTPUT_DIR"):
            check_outputs(spec({kind: True}), args)
        check_outputs(spec({kind: True, "uri": "x"}), args)


@pytest.mark.parametrize(
    ("library", "extra", "wanted"),
    [("pyarrow", "parquet", {"formats": ["parquet"]}), ("obstore", "objects", {"uri": "s3://dock/out/x"})],
)
def test_without_a_library_the_error_names_the_extra(
    library: str, extra: str, wanted: dict[str, Any], args: AppArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {library, *(name for name in sys.modules if name.startswith(f"{library}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidParameter, match=rf"sightline\[{extra}\]"):
        check_outputs(spec(wanted), args)


def test_a_job_without_outputs_writes_nothing(tmp_path: Path, args: AppArgs) -> None:
    assert write(tmp_path, args) == []
    assert contents(tmp_path) == {}
    assert outputs.open_pictures(spec({"uri": "x"}), args, tmp_path) is None

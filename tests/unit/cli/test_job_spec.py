"""Tests of the specification that ``sightline jobs submit`` makes, and of the files that it uploads."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from serve_app.cli.errors import CommandFailed
from serve_app.cli.job_spec import files_of, format_of, read_spec, source_of, spec_of
from serve_app.schemas.jobs import JobSpec

NO_OUTPUTS = {"uri": "", "formats": [], "annotated": False, "crops": False}


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("photos", "files"),
        ("photos/**/*.jpg", "files"),
        ("s3://dock/in/", "objects"),
        ("gs://dock/**/*.png", "objects"),
        ("night.zip", "archive"),
        ("night.tar.gz", "archive"),
        ("s3://dock/night.zip", "archive"),
        ("day.MP4", "video"),
        ("s3://dock/day.mp4", "video"),
        ("urls.txt", "urls"),
        ("urls.csv", "urls"),
        ("https://example.org/1.jpg", "urls"),
    ],
)
def test_the_type_of_a_source_follows_from_its_name(source: str, kind: str) -> None:
    spec = spec_of([source], {}, NO_OUTPUTS)
    assert JobSpec.model_validate(spec).source.type == kind


def test_a_local_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_of(["photos"], None) == {"type": "files", "path": str(tmp_path / "photos")}


def test_several_urls_are_one_source_and_several_folders_are_refused() -> None:
    urls = ["https://example.org/1.jpg", "https://example.org/2.jpg"]
    assert source_of(urls, None) == {"type": "urls", "urls": urls}
    with pytest.raises(CommandFailed, match="one source"):
        source_of(["a", "b"], None)


@pytest.mark.parametrize("source", ["abfs://dock/in/", "abfss://dock/a.zip", "rtsp://camera/1"])
def test_an_address_that_the_server_cannot_read_is_refused_at_once(source: str) -> None:
    with pytest.raises(CommandFailed, match="a job cannot read it; use s3://, gs://, az:// or a path"):
        source_of([source], None)


@pytest.mark.parametrize("source", ["photos", "urls.txt", "https://example.org/day.mp4"])
def test_only_a_video_has_an_interval(source: str) -> None:
    with pytest.raises(CommandFailed, match="--every-s"):
        spec_of([source], {}, NO_OUTPUTS, every_s=2)
    assert spec_of(["day.mp4"], {}, NO_OUTPUTS, every_s=2)["source"]["every_s"] == 2


def test_uploaded_files_need_no_path_on_the_server() -> None:
    assert spec_of(["a.jpg", "b.jpg"], {}, NO_OUTPUTS, upload=True)["source"] == {"type": "upload"}


def test_only_given_settings_are_sent() -> None:
    spec = spec_of(["photos"], {"model": None, "confidence": 0.3, "classes": None}, NO_OUTPUTS)
    assert spec["detect"] == {"confidence": 0.3}
    assert "outputs" not in spec
    outputs = spec_of(["photos"], {}, NO_OUTPUTS | {"annotated": True})["outputs"]
    assert JobSpec.model_validate(spec_of(["photos"], {}, NO_OUTPUTS) | {"outputs": outputs}).outputs[0].annotated


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("a.csv", "csv"),
        ("a.json", "coco"),
        ("a.ZIP", "yolo"),
        ("a.parquet", "parquet"),
        ("a", "jsonl"),
    ],
)
def test_the_format_of_results_follows_from_the_files_name(name: str, kind: str) -> None:
    assert format_of(PurePath(name)) == kind


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_a_file_that_is_no_specification_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(text)
    with pytest.raises(CommandFailed, match="--spec"):
        read_spec(file)


# Files to upload


def test_only_the_images_in_a_folder_are_uploaded(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert files_of([str(photos)]) == {"a.jpg": photos / "a.jpg", "dock__b.PNG": photos / "dock" / "b.PNG"}
    assert capsys.readouterr().err == "files in the folders that are not images, and are not sent: 5\n"


def test_a_named_file_is_uploaded_whatever_its_name_is(tmp_path: Path) -> None:
    (tmp_path / "IMG_0001").touch()
    assert files_of([str(tmp_path / "IMG_0001")]) == {"IMG_0001": tmp_path / "IMG_0001"}


def test_files_that_would_have_the_same_name_are_refused(photos: Path) -> None:
    (photos / "dock__b.PNG").touch()
    with pytest.raises(CommandFailed, match=r"would both have the name dock__b\.PNG"):
        files_of([str(photos)])
    with pytest.raises(CommandFailed, match=r"would both have the name a\.jpg"):
        files_of([str(photos / "a.jpg"), str(photos / "dock" / ".." / "a.jpg")])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("night.zip", "unpack an archive, or put the file where the server can read it"),
        ("night.TAR.GZ", "unpack an archive"),
        ("day.mp4", "SERVE_APP_MEDIA_DIRS"),
        ("urls.txt", "SERVE_APP_MEDIA_DIRS"),
        (".a.jpg", "does not start with a dot"),
        ("none.jpg", "there is no such file"),
        ("empty", "the folders have no images"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_with_what_to_do(tmp_path: Path, name: str, sentence: str) -> None:
    if name == "empty":
        (tmp_path / name).mkdir()
    elif name != "none.jpg":
        (tmp_path / name).touch()
    with pytest.raises(CommandFailed, match=sentence):
        files_of([str(tmp_path / name)])

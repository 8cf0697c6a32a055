"""Tests of outputs in a bucket, against a local server that speaks the protocol of S3."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from serve_app.config import AppArgs, parse_args
from serve_app.errors import Unavailable
from serve_app.jobs import buckets
from serve_app.jobs.outputs import OutputUnwritable, open_pictures, write_outputs
from serve_app.schemas.jobs import FilesSource, JobSpec
from tests.support.job_results import StoredResults, example, line

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server without buckets, and return its address."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Create the bucket ``dock``, and set the environment as an operator does."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urlopen(Request(f"{server}/dock", method="PUT")).close()
    store = S3Store("dock")
    for page in obstore.list(store):
        obstore.delete(store, [each["path"] for each in page])
    return store


@pytest.fixture
def args() -> AppArgs:
    return parse_args({"jobs": {"allowed_uris": "s3://dock/out s3://missing"}})


def spec(**output: Any) -> JobSpec:
    return JobSpec(id="night", source=FilesSource(type="files", path="in"), outputs=[output])


def objects(store: S3Store) -> dict[str, bytes]:
    return {
        each["path"]: bytes(obstore.get(store, each["path"]).bytes()) for page in obstore.list(store) for each in page
    }


def write(wanted: JobSpec, args: AppArgs, folder: Path, results: StoredResults) -> None:
    write_outputs(wanted, results, folder, args, report=lambda *_: None)


def test_an_output_is_written_below_its_prefix_twice_with_the_same_bytes(
    bucket: S3Store, args: AppArgs, tmp_path: Path
) -> None:
    wanted = spec(uri="s3://dock/out/28/", formats=["coco", "yolo"])
    write(wanted, args, tmp_path, example())
    first = objects(bucket)
    assert first.keys() == {
        f"out/28/{name}" for name in ("results.jsonl", "coco.json", "yolo.zip", "failed.jsonl", "manifest.json")
    }
    assert json.loads(first["out/28/manifest.json"])["succeeded"] == 4
    write(wanted, args, tmp_path, example())
    assert objects(bucket) == first


def test_a_large_file_is_written_in_parts(bucket: S3Store, args: AppArgs, tmp_path: Path) -> None:
    results = StoredResults([line(number, "x" * 1_000_000) for number in range(12)])
    write(spec(uri="s3://dock/out"), args, tmp_path, results)
    assert objects(bucket)["out/results.jsonl"] == (tmp_path / "results" / "results.jsonl").read_bytes()


def test_percent_signs_do_not_lead_out_of_the_prefix(bucket: S3Store, args: AppArgs, tmp_path: Path) -> None:
    write(spec(uri="s3://dock/out/%2e%2e/%2e%2e/x"), args, tmp_path, example())
    assert {name.split("/")[0] for name in objects(bucket)} == {"out"}


async def test_images_are_written_below_the_prefix(bucket: S3Store, args: AppArgs, tmp_path: Path) -> None:
    writer = open_pictures(spec(uri="s3://dock/out/28", annotated=True), args, tmp_path)
    assert writer is not None
    await writer.put("annotated/000000001.jpg", b"jpeg")
    assert objects(bucket) == {"out/28/annotated/000000001.jpg": b"jpeg"}


def test_a_bucket_that_does_not_exist_is_never_writable(bucket: S3Store, args: AppArgs, tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="does not exist"):
        write(spec(uri="s3://missing/x"), args, tmp_path, example())


def test_a_server_that_does_not_answer_is_tried_again_later(
    bucket: S3Store, args: AppArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(buckets._RETRIES, "max_retries", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closer = threading.Thread(target=_close_each, args=(listener,), daemon=True)
        closer.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Unavailable):
            write(spec(uri="s3://dock/out"), args, tmp_path, example())


def _close_each(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return

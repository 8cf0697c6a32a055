"""Objects are listed and read as one expects of S3, by a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import S3Store

from serve_app.config import AppArgs
from serve_app.errors import InvalidParameter, SourceError, TooLarge, Unavailable
from serve_app.jobs import buckets
from serve_app.jobs.sources import ChangedItem, MissingItem, UnreadableItem
from serve_app.jobs.units import Item
from tests.support.archives import pack, zip_with_offset
from tests.support.buckets import BucketDoor, make_bucket, moto_server, use
from tests.support.sources import check_resumption, clips, items, names, pages, source_of
from tests.support.videos import frame_shown, save_video

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Start S3, and return its port."""
    with moto_server() as port:
        yield port


@pytest.fixture
def door(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketDoor]:
    """Return the door in front of S3, to which the environment points."""
    door = BucketDoor(port)
    use(door, monkeypatch)
    monkeypatch.setitem(buckets._RETRIES, "max_retries", 1)
    monkeypatch.setitem(
        buckets._RETRIES, "backoff", {"init_backoff": timedelta(0, 0, 1), "max_backoff": timedelta(0, 0, 1)}
    )
    yield door
    door.close()


@pytest.fixture
def dock(door: BucketDoor) -> S3Store:
    """Return the empty bucket ``dock``."""
    return make_bucket("dock")


def fill(bucket: S3Store, *keys: str) -> None:
    for key in keys:
        bucket.put(key, key.encode())


async def test_a_prefix_is_listed_and_read(dock: S3Store, args: AppArgs) -> None:
    fill(dock, "in/b.jpg", "in/a/1.png", "in/a.txt", "in/.hidden.jpg", "incoming/x.jpg", "y.jpg")
    source = source_of(args, type="objects", uri="s3://dock/in/")
    assert source.name == "s3://dock/in/"
    assert await names(source) == ["in/a/1.png", "in/b.jpg"]
    assert [await source.read(item) for item in await items(source)] == [b"in/a/1.png", b"in/b.jpg"]


async def test_a_whole_bucket_a_glob_and_a_single_object_are_listed(dock: S3Store, args: AppArgs) -> None:
    fill(dock, "a.jpg", "n/1/b.jpg", "n/1/b.png", "n/2/c.jpg")
    for uri, expected in (
        ("s3://dock", ["a.jpg", "n/1/b.jpg", "n/1/b.png", "n/2/c.jpg"]),
        ("s3://dock/n/**/*.jpg", ["n/1/b.jpg", "n/2/c.jpg"]),
        ("s3://dock/*.jpg", ["a.jpg"]),
        ("s3://dock/n/1/b.png", ["n/1/b.png"]),
    ):
        assert await names(source_of(args, type="objects", uri=uri)) == expected


async def test_unusual_keys_are_listed_and_read(dock: S3Store, args: AppArgs) -> None:
    keys = ["in/a b.jpg", "in/c%20d.jpg", "in/e+f&g=h.jpg", "in/?q#f.jpg", "in/ü🙂.jpg", "in/@.jpg", "in/[1].jpg"]
    fill(dock, *keys)
    source = source_of(args, type="objects", uri="s3://dock/in")
    assert sorted(await names(source)) == sorted(keys)
    assert sorted([await source.read(item) for item in await items(source)]) == sorted(key.encode() for key in keys)


async def test_a_long_listing_continues_exactly_after_each_cursor(dock: S3Store, args: AppArgs) -> None:
    fill(dock, *(f"in/{number:04}.jpg" for number in range(150)))
    source = source_of(args, type="objects", uri="s3://dock/in")
    assert await names(source) == [f"in/{number:04}.jpg" for number in range(150)]
    await check_resumption(source)


async def test_objects_deleted_after_the_listing_are_missing_and_the_others_are_read(
    dock: S3Store, args: AppArgs
) -> None:
    fill(dock, *(f"in/{number:02}.jpg" for number in range(20)))
    source = source_of(args, type="objects", uri="s3://dock/in")
    listed = await items(source)
    for item in listed[::2]:
        dock.delete(item.name)
    for item in listed[::2]:
        with pytest.raises(MissingItem, match=rf"^{item.name} does not exist"):
            await source.read(item)
    assert [await source.read(item) for item in listed[1::2]] == [item.name.encode() for item in listed[1::2]]


async def test_an_object_with_another_etag_than_listed_is_changed(dock: S3Store, args: AppArgs) -> None:
    fill(dock, "a.jpg", "b.jpg")
    source = source_of(args, type="objects", uri="s3://dock")
    changed, same = await items(source)
    dock.put("a.jpg", b"other")
    with pytest.raises(ChangedItem, match=r"^a\.jpg has changed since it was listed"):
        await source.read(changed)
    assert await source.read(same) == b"b.jpg"


async def test_an_object_above_the_limit_is_not_downloaded(dock: S3Store, door: BucketDoor, args: AppArgs) -> None:
    dock.put("a.jpg", bytes(2**20 + 1))
    dock.put("b.jpg", bytes(2**20))
    source = source_of(args, type="objects", uri="s3://dock")
    large, at_the_limit = await items(source)
    door.requests.clear()
    with pytest.raises(TooLarge, match=r"^limits\.max_body_mib: a\.jpg is larger than 1 MiB"):
        await source.read(large)
    assert not door.requests
    assert len(await source.read(at_the_limit)) == 2**20


@pytest.mark.parametrize("status", [500, 503])
async def test_a_bucket_that_fails_for_a_while_is_unavailable_and_then_read(
    dock: S3Store, door: BucketDoor, args: AppArgs, status: int
) -> None:
    fill(dock, "a.jpg")
    source = source_of(args, type="objects", uri="s3://dock")
    (item,) = await items(source)
    door.status = status
    with pytest.raises(Unavailable) as while_reading:
        await source.read(item)
    with pytest.raises(Unavailable) as while_listing:
        await pages(source)
    assert while_reading.value.retry_after_s == while_listing.value.retry_after_s == buckets.RETRY_AFTER_S
    door.status = None
    assert await source.read(item) == b"a.jpg"
    assert await items(source) == [item]


async def test_a_bucket_that_cannot_be_reached_is_unavailable(
    dock: S3Store, args: AppArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable) as caught:
        await pages(source_of(args, type="objects", uri="s3://dock"))
    assert "127.0.0.1" not in caught.value.detail


async def test_an_object_without_permission_is_unreadable(dock: S3Store, door: BucketDoor, args: AppArgs) -> None:
    fill(dock, "a.jpg")
    source = source_of(args, type="objects", uri="s3://dock")
    (item,) = await items(source)
    door.status = 403
    with pytest.raises(UnreadableItem, match=r"^a\.jpg may not be read with the server's credentials"):
        await source.read(item)
    with pytest.raises(SourceError, match=r"^source\.uri: s3://dock may not be listed with the server's"):
        await pages(source)
    door.status = 404
    with pytest.raises(SourceError, match=r"^source\.uri: s3://dock is in a bucket that does not exist"):
        await pages(source)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
async def test_an_archive_in_a_bucket_is_read_by_ranges(
    dock: S3Store, door: BucketDoor, args: AppArgs, tmp_path: Path, kind: str
) -> None:
    content = {f"{number}.jpg": os.urandom(100_000) for number in range(30)}
    dock.put(f"a.{kind}", pack(tmp_path / f"a.{kind}", content).read_bytes())
    source = source_of(args, tmp_path / "job", type="archive", path=f"s3://dock/a.{kind}")
    listed = await items(source)
    door.requests.clear()
    assert await source.read(listed[17]) == content["17.jpg"]
    assert len(door.requests) <= 2
    assert {item.name: await source.read(item) for item in listed} == content
    if kind != "tar.gz":  # which has been unpacked already
        dock.put(f"a.{kind}", b"another")
        with pytest.raises(ChangedItem):
            await source.read(listed[0])
        dock.delete(f"a.{kind}")
        with pytest.raises(MissingItem):
            await source.read(listed[0])


async def test_a_member_beyond_the_end_of_its_archive_is_unreadable(
    dock: S3Store, args: AppArgs, tmp_path: Path
) -> None:
    dock.put("a.zip", zip_with_offset(1 << 20))
    source = source_of(args, tmp_path / "job", type="archive", path="s3://dock/a.zip")
    first, second = await items(source)
    with pytest.raises(UnreadableItem, match=r"^0\.jpg cannot be unpacked: its header is damaged"):
        await source.read(first)
    assert await source.read(second) == b"1"


async def test_a_video_and_a_list_in_a_bucket_are_read(dock: S3Store, args: AppArgs, tmp_path: Path) -> None:
    dock.put("a.avi", save_video(tmp_path / "a.avi", frames=130, fps=10).read_bytes())
    source = source_of(args, type="video", path="s3://dock/a.avi")
    listed = await clips(source)
    shown = [frame_shown(pixels) for clip in listed for _, pixels in source.frames(clip)]
    assert (shown, len(listed)) == (list(range(130)), 2)
    dock.put("a.csv", b"url,id\nhttps://a/1.jpg,mine\n")
    assert await items(source_of(args, type="urls", path="s3://dock/a.csv")) == [Item("https://a/1.jpg", id="mine")]
    dock.put("a.avi", b"another")
    with pytest.raises(ChangedItem):
        list(source.frames(listed[0]))


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("s3://dock/none.zip", "does not exist"),
        ("s3://dock/empty.zip", "it is not a zip"),
        ("s3://dock", "add the object"),
    ],
)
async def test_other_archives_in_a_bucket_are_refused(
    dock: S3Store, args: AppArgs, tmp_path: Path, path: str, error: str
) -> None:
    dock.put("empty.zip", b"")
    with pytest.raises(SourceError, match=error):
        await pages(source_of(args, tmp_path, type="archive", path=path))


async def test_an_archive_outside_the_allowed_prefixes_is_refused(args: AppArgs) -> None:
    for path in ("s3://yard/a.zip", "s3://me:hunter2@dock/a.zip", "https://dock/a.zip"):
        with pytest.raises(SourceError, match=r"^source\.path ") as caught:
            source_of(args, type="archive", path=path)
        assert "hunter2" not in caught.value.detail


async def test_a_prefix_without_images_is_refused(dock: S3Store, args: AppArgs) -> None:
    fill(dock, "in/a.txt")
    with pytest.raises(SourceError, match="has no image; check the prefix"):
        await pages(source_of(args, type="objects", uri="s3://dock/in"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://yard/incoming/a.jpg",
        "s3://yard/in/../secret/a.jpg",
        "s3://yard",
        "s3://yard/*",
        "s3://yard/i*/a.jpg",
        "s3://dockyard/in",
        "gs://yard/in",
        "s3://Dock/in",
        "s3://yard//in/a.jpg",
        "s3://me:hunter2@dock/in",
        "s3://hunter2@dock/in",
        "s3://dock/in?endpoint=hunter2",
        "s3://dock/in#hunter2",
        "s3://dock:9000/in",
        "https://dock/in",
        "file:///dock",
        "/dock",
        "s3://",
        "s3://dock/a\nb",
    ],
)
def test_other_addresses_are_refused_without_repeating_them(args: AppArgs, uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        source_of(args, type="objects", uri=uri)
    assert "hunter2" not in caught.value.detail
    assert caught.value.detail.startswith("source.uri ")


@pytest.mark.parametrize("uri", ["s3://yard/in", "s3://yard/in/", "s3://yard/in/x/*.jpg", "gs://dock/x", "az://dock/y"])
def test_allowed_prefixes_are_accepted(
    door: BucketDoor, args: AppArgs, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert source_of(args, type="objects", uri=uri).name == uri


def test_no_bucket_is_allowed_by_default() -> None:
    with pytest.raises(SourceError, match="SERVE_APP_JOBS_ALLOWED_URIS"):
        source_of(AppArgs(), type="objects", uri="s3://dock/in")


def test_the_missing_library_is_named(args: AppArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.exceptions", None)
    with pytest.raises(InvalidParameter, match=r"pip install 'sightline\[objects\]'"):
        source_of(args, type="objects", uri="s3://dock/in")


def test_settings_that_cannot_be_used_are_not_repeated(args: AppArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "hunter2 is not base64")
    with pytest.raises(SourceError) as caught:
        source_of(args, type="objects", uri="az://dock/in")
    assert "hunter2" not in caught.value.detail

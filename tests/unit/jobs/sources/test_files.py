from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from serve_app.config import AppArgs
from serve_app.errors import SourceError, TooLarge
from serve_app.jobs.sources import ChangedItem, MissingItem, UnreadableItem, files
from tests.support.sources import check_resumption, items, names, pages, source_of

pytestmark = pytest.mark.anyio


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())


async def test_a_folder_is_listed_with_its_subfolders_in_the_order_of_the_paths(media: Path, args: AppArgs) -> None:
    write(media, "in/b.jpg", "in/a/2.PNG", "in/a/1.webp", "in/a.jpg", "in/a-b.jpg", "in/notes.txt", "out/x.jpg")
    write(media, "in/.hidden/x.jpg", "in/._a.jpg", "in/a/.part.jpg")
    source = source_of(args, type="files", path=str(media / "in"))
    listed = await names(source)
    assert listed == ["a-b.jpg", "a.jpg", "a/1.webp", "a/2.PNG", "b.jpg"] == sorted(listed)
    assert [await source.read(item) for item in await items(source)] == [f"in/{name}".encode() for name in listed]


async def test_a_listing_continues_exactly_after_each_cursor(media: Path, args: AppArgs) -> None:
    chance = random.Random(7)
    for _ in range(400):
        parts = [chance.choice("abc-.~é") * chance.randint(1, 2) for _ in range(chance.randint(1, 4))]
        path = media.joinpath(*(f"x{part}" for part in parts)).with_suffix(".jpg")
        if not any(parent.suffix == ".jpg" and parent.is_file() for parent in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    source = source_of(args, type="files", path=str(media))
    listed = await names(source)
    assert listed == sorted(str(path.relative_to(media)) for path in media.rglob("*.jpg") if path.is_file())
    assert len(listed) > 100
    await check_resumption(source)
    for number, name in enumerate(listed, 1):
        assert list(files.walk(media, name)) == listed[number:]


async def test_a_listing_continues_where_files_and_folders_have_been_deleted(media: Path, args: AppArgs) -> None:
    write(media, "a/1.jpg", "a/2.jpg", "b/1.jpg", "c.jpg")
    (media / "a" / "1.jpg").unlink()
    assert list(files.walk(media, "a/1.jpg")) == ["a/2.jpg", "b/1.jpg", "c.jpg"]
    (media / "a" / "2.jpg").unlink()
    (media / "a").rmdir()
    assert list(files.walk(media, "a/1.jpg")) == ["b/1.jpg", "c.jpg"]


async def test_a_folder_with_more_names_than_fit_in_memory_is_listed_in_parts(
    media: Path, args: AppArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [f"{number:03}.jpg" for number in range(100)]
    for name in random.Random(1).sample(expected, 100):
        (media / name).touch()
    for limit in (7, 10, 50, 100):
        monkeypatch.setattr(files, "_MAX_NAMES", limit)
        assert await names(source_of(args, type="files", path=str(media))) == expected


async def test_the_first_page_is_small_and_units_grow(media: Path, args: AppArgs) -> None:
    write(media, *(f"{number:04}.jpg" for number in range(300)))
    listed = await pages(source_of(args, type="files", path=str(media)))
    sizes = [[len(unit.items) for unit in page.units] for page in listed]
    assert sizes == [[4], [8, 16], [32, 32, 32, 32], [32, 32, 32, 32, 16]]


async def test_a_glob_selects_files(media: Path, args: AppArgs) -> None:
    write(media, "n/1/a.jpg", "n/2/a.jpg", "n/2/b.png", "n/a.jpg")
    for pattern, expected in (
        ("n/*/a.jpg", ["1/a.jpg", "2/a.jpg"]),
        ("n/**/*.png", ["2/b.png"]),
        ("n/[a-b].jpg", ["a.jpg"]),
    ):
        source = source_of(args, type="files", path=f"{media}/{pattern}")
        assert await names(source) == expected
        await source.read((await items(source))[0])


async def test_a_single_file_and_a_name_with_brackets_are_taken_as_they_are(media: Path, args: AppArgs) -> None:
    write(media, "a[1].jpg", "b[1]/c.jpg", "picture")
    assert await names(source_of(args, type="files", path=f"{media}/a[1].jpg")) == ["a[1].jpg"]
    assert await names(source_of(args, type="files", path=f"{media}/b[1]")) == ["c.jpg"]
    assert await names(source_of(args, type="files", path=f"{media}/picture")) == ["picture"]


async def test_names_that_are_not_utf_8_are_listed_and_read(media: Path, args: AppArgs) -> None:
    for name in (b"a\xff.jpg", b"d\xfe/b.jpg", b"c\\xff.jpg"):
        path = Path(os.fsdecode(os.fsencode(media) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    source = source_of(args, type="files", path=str(media))
    assert await names(source) == ["a\\xff.jpg", "c\\xff.jpg", "d\\xfe/b.jpg"]
    assert [await source.read(item) for item in await items(source)] == [b"a\xff.jpg", b"c\\xff.jpg", b"d\xfe/b.jpg"]
    await check_resumption(source)


async def test_a_file_that_is_gone_or_changed_after_the_listing_is_not_read(media: Path, args: AppArgs) -> None:
    write(media, "changed.jpg", "gone.jpg", "same.jpg")
    source = source_of(args, type="files", path=str(media))
    changed, gone, same = await items(source)
    (media / "gone.jpg").unlink()
    (media / "changed.jpg").write_bytes(b"another")
    os.utime(media / "changed.jpg", ns=(1, 1))
    with pytest.raises(MissingItem, match=r"^gone\.jpg does not exist"):
        await source.read(gone)
    with pytest.raises(ChangedItem, match=r"^changed\.jpg has changed"):
        await source.read(changed)
    assert await source.read(same) == b"same.jpg"


async def test_a_file_above_the_limit_is_refused(media: Path, args: AppArgs) -> None:
    (media / "a.jpg").write_bytes(bytes(2**20 + 1))
    (media / "b.jpg").write_bytes(bytes(2**20))
    source = source_of(args, type="files", path=str(media))
    too_large, at_the_limit = await items(source)
    with pytest.raises(TooLarge, match=r"^limits\.max_body_mib: a\.jpg is larger than 1 MiB"):
        await source.read(too_large)
    assert len(await source.read(at_the_limit)) == 2**20


async def test_links_out_of_the_allowed_folders_are_refused(tmp_path: Path, media: Path, args: AppArgs) -> None:
    write(tmp_path, "secret/a.jpg")
    write(media, "in/a.jpg")
    (media / "in" / "b.jpg").symlink_to(tmp_path / "secret" / "a.jpg")
    (media / "in" / "c").symlink_to(tmp_path / "secret")
    (media / "in" / "d.jpg").symlink_to(media / "in" / "a.jpg")
    (media / "in" / "e.jpg").symlink_to(media / "in" / "missing.jpg")
    source = source_of(args, type="files", path=str(media / "in"))
    listed = await items(source)
    assert [item.name for item in listed] == ["a.jpg", "b.jpg", "d.jpg", "e.jpg"]
    assert await source.read(listed[2]) == b"in/a.jpg"
    with pytest.raises(UnreadableItem, match=r"^b\.jpg is a link out of SERVE_APP_MEDIA_DIRS"):
        await source.read(listed[1])
    with pytest.raises(MissingItem):
        await source.read(listed[3])


async def test_a_pipe_is_refused_and_does_not_block(media: Path, args: AppArgs) -> None:
    os.mkfifo(media / "a.jpg")
    source = source_of(args, type="files", path=str(media))
    with pytest.raises(UnreadableItem):
        await source.read((await items(source))[0])


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("{media}/../secret", "source.path: secret is not below a folder of SERVE_APP_MEDIA_DIRS"),
        ("/etc/*.jpg", "source.path: etc is not below a folder of SERVE_APP_MEDIA_DIRS"),
        ("*.jpg", "is not below a folder of SERVE_APP_MEDIA_DIRS"),
        ("{media}/link", "source.path: link is not below a folder of SERVE_APP_MEDIA_DIRS"),
        ("{media}/missing", "source.path: missing does not exist"),
        ("{media}/a\0b", "source.path is not a valid path"),
        ("https://me:hunter2@example.com/a", "source.path must be a path below a folder of SERVE_APP_MEDIA_DIRS, not"),
        ("me:hunter2@example.com", "source.path: example.com is not below"),
    ],
)
def test_other_paths_are_refused(media: Path, args: AppArgs, path: str, detail: str) -> None:
    (media / "link").symlink_to("/etc")
    with pytest.raises(SourceError) as caught:
        source_of(args, type="files", path=path.format(media=media))
    assert detail in caught.value.detail
    assert "hunter2" not in caught.value.detail


async def test_a_folder_without_images_is_refused(media: Path, args: AppArgs) -> None:
    write(media, "notes.txt")
    with pytest.raises(SourceError, match="has no image; check the path"):
        await pages(source_of(args, type="files", path=str(media)))


async def test_a_listing_that_continues_after_the_last_file_ends(media: Path, args: AppArgs) -> None:
    write(media, "a.jpg")
    (last,) = await pages(source_of(args, type="files", path=str(media)), "a.jpg")
    assert (last.units, last.cursor) == ((), None)

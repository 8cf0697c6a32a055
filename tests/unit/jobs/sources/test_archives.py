"""Archives are read member by member, and hostile ones do no harm."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
from itertools import islice
from pathlib import Path

import pytest

from serve_app.config import AppArgs
from serve_app.errors import SourceError, TooLarge, Unavailable
from serve_app.jobs.sources import ChangedItem, MissingItem, UnreadableItem, archives, tar_members
from tests.support.archives import pack, zip_with_offset
from tests.support.sources import check_resumption, items, names, pages, source_of

pytestmark = pytest.mark.anyio

KINDS = ("zip", "stored.zip", "tar", "tar.gz")
CONTENT = {f"in/{number:03}.jpg": os.urandom(50) + bytes(number * 40) for number in range(100)}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_member_is_listed_and_read(media: Path, job_folder: Path, args: AppArgs, kind: str) -> None:
    path = pack(media / f"a.{kind}", CONTENT | {"notes.txt": b"x", "__MACOSX/in/._001.jpg": b"x"})
    source = source_of(args, job_folder, type="archive", path=str(path))
    listed = await items(source)
    assert {item.name: await source.read(item) for item in listed} == CONTENT
    assert len(listed) == len(CONTENT)
    await source.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_listing_continues_exactly_after_each_cursor(
    media: Path, job_folder: Path, args: AppArgs, kind: str
) -> None:
    path = pack(media / f"a.{kind}", CONTENT)
    await check_resumption(source_of(args, job_folder, type="archive", path=str(path)))


@pytest.mark.parametrize("kind", KINDS)
async def test_another_process_can_read_what_was_listed(
    media: Path, job_folder: Path, args: AppArgs, kind: str
) -> None:
    path = pack(media / f"a.{kind}", CONTENT)
    listed = await items(source_of(args, job_folder, type="archive", path=str(path)))
    runner = source_of(args, job_folder, type="archive", path=str(path))
    assert [await runner.read(item) for item in listed[::-7]] == [CONTENT[item.name] for item in listed[::-7]]


@pytest.mark.parametrize("kind", KINDS)
async def test_names_are_labels_and_never_paths(media: Path, job_folder: Path, args: AppArgs, kind: str) -> None:
    content = {"../../x.jpg": b"1", "/etc/y.jpg": b"2", "./z.jpg": b"3", "ü 🙂.jpg": b"4", "C:\\w.jpg": b"5"}
    path = pack(media / f"a.{kind}", content)
    source = source_of(args, job_folder, type="archive", path=str(path))
    listed = await items(source)
    assert [await source.read(item) for item in listed] == [b"1", b"2", b"3", b"4", b"5"]
    assert not list(media.parent.rglob("*.jpg"))


async def test_names_that_are_not_utf_8_are_shown_with_their_bytes(
    media: Path, job_folder: Path, args: AppArgs
) -> None:
    path = pack(media / "a.tar", {"a\udcff.jpg": b"1"})
    source = source_of(args, job_folder, type="archive", path=str(path))
    assert await names(source) == ["a\\xff.jpg"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_member_above_the_limit_is_refused(media: Path, job_folder: Path, args: AppArgs, kind: str) -> None:
    path = pack(media / f"a.{kind}", {"a.jpg": bytes(2**20 + 1), "b.jpg": bytes(2**20)})
    source = source_of(args, job_folder, type="archive", path=str(path))
    large, at_the_limit = await items(source)
    with pytest.raises(TooLarge, match=r"^limits\.max_body_mib: a\.jpg"):
        await source.read(large)
    assert await source.read(at_the_limit) == bytes(2**20)


async def test_a_bomb_is_never_unpacked_beyond_its_declared_size(media: Path, job_folder: Path, args: AppArgs) -> None:
    path = pack(media / "a.zip", {"a.jpg": bytes(900 << 20)})
    data = path.read_bytes()
    entry = data.rindex(b"PK\1\2")
    for declared in (10, 1 << 20):
        path.write_bytes(data[: entry + 24] + struct.pack("<L", declared) + data[entry + 28 :])
        source = source_of(args, job_folder, type="archive", path=str(path))
        (bomb,) = await items(source)
        with pytest.raises(UnreadableItem, match="content is damaged"):
            await source.read(bomb)


async def test_a_compressed_tar_that_unpacks_to_too_much_is_refused_and_leaves_nothing(
    media: Path, job_folder: Path, args: AppArgs
) -> None:
    path = media / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20)))
    small = args.model_copy(update={"jobs": args.jobs.model_copy(update={"max_disk_gib": 1 / 32})})
    with pytest.raises(SourceError, match=r"^jobs\.max_disk_gib: a\.tar\.gz is larger") as caught:
        await pages(source_of(small, job_folder, type="archive", path=str(path)))
    assert caught.value.limit == "jobs.max_disk_gib"
    assert list(job_folder.iterdir()) == []


async def test_a_huge_header_is_not_read_into_memory(
    media: Path, job_folder: Path, args: AppArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_members, "_MAX_HEADER_BYTES", 4096)
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8192
    path = media / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(8192) + bytes(10240))
    with pytest.raises(SourceError, match="damaged"):
        await pages(source_of(args, job_folder, type="archive", path=str(path)))


@pytest.mark.parametrize("size", [-1, -512, -1024, 1 << 80])
def test_a_tar_with_a_size_that_no_file_has_is_refused(size: int) -> None:
    plain = header_of("a.jpg", tarfile.REGTYPE, 0)
    file = io.BytesIO(plain + header_of("b.jpg", tarfile.REGTYPE, size) + bytes(10240))
    with pytest.raises(tar_members.DamagedTar):  # with the size -512, the same header would be found again and again
        list(islice(tar_members.members(file), 9))


async def test_a_name_of_a_negative_size_does_not_read_the_whole_file(tmp_path: Path) -> None:
    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size >= 0
            return super().read(size)

    file = Watched(header_of("././@LongLink", tarfile.GNUTYPE_LONGNAME, -512) + bytes(10240))
    with pytest.raises(tar_members.DamagedTar):
        list(tar_members.members(file))


def header_of(name: str, kind: bytes, size: int) -> bytes:
    """Return a member's header with a size in base 256, as GNU tar writes it. It may be negative."""
    header = tarfile.TarInfo(name)
    header.type = kind
    data = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    data[148:156] = b" " * 8  # the checksum counts itself as spaces
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


async def test_an_archive_with_a_password_is_refused(media: Path, job_folder: Path, args: AppArgs) -> None:
    path = pack(media / "a.zip", {"a.jpg": b"x"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.zip is encrypted; pack it again without a password"):
        await pages(source_of(args, job_folder, type="archive", path=str(path)))


async def test_archives_in_archives_are_passed_over(media: Path, job_folder: Path, args: AppArgs) -> None:
    inner = pack(media / "inner.zip", {"x.jpg": b"x"}).read_bytes()
    path = pack(media / "a.zip", {"inner.zip": inner, "a.jpg": b"x"})
    assert await names(source_of(args, job_folder, type="archive", path=str(path))) == ["a.jpg"]


async def test_links_and_devices_in_archives_are_passed_over(media: Path, job_folder: Path, args: AppArgs) -> None:
    with tarfile.open(media / "a.tar", "w") as tar:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("d.jpg"))
    assert await names(source_of(args, job_folder, type="archive", path=str(media / "a.tar"))) == ["d.jpg"]
    link = zipfile.ZipInfo("a.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(media / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b.jpg/", "")
        archive.writestr("c.jpg", "x")
    assert await names(source_of(args, job_folder, type="archive", path=str(media / "a.zip"))) == ["c.jpg"]


async def test_a_damaged_member_does_not_affect_the_others(media: Path, job_folder: Path, args: AppArgs) -> None:
    path = pack(media / "a.zip", {f"{number}.jpg": os.urandom(1000) for number in range(3)})
    data = bytearray(path.read_bytes())
    data[1600] ^= 1
    path.write_bytes(data)
    source = source_of(args, job_folder, type="archive", path=str(path))
    first, second, third = await items(source)
    assert len(await source.read(first)) == len(await source.read(third)) == 1000
    with pytest.raises(UnreadableItem, match=r"^1\.jpg cannot be unpacked: its content is damaged"):
        await source.read(second)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.97])
async def test_an_archive_that_ends_too_early_is_refused(
    media: Path, job_folder: Path, args: AppArgs, kind: str, share: float
) -> None:
    path = pack(media / f"a.{kind}", CONTENT)
    if kind == "tar":
        path.write_bytes(path.read_bytes()[:-10240].rstrip(b"\0"))  # without the padding at the end
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(SourceError, match=rf"^source\.path: a\.{kind} cannot be read: it "):
        await pages(source_of(args, job_folder, type="archive", path=str(path)))


async def test_a_damaged_header_in_a_tar_is_not_taken_for_the_end(media: Path, job_folder: Path, args: AppArgs) -> None:
    path = pack(media / "a.tar", {"a.jpg": b"x", "b.jpg": b"y"})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="it is damaged"):
        await pages(source_of(args, job_folder, type="archive", path=str(path)))


@pytest.mark.parametrize(
    "content", [b"", b"no archive", bytes(5000), b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c" * 99]
)
async def test_other_files_are_refused(media: Path, job_folder: Path, args: AppArgs, content: bytes) -> None:
    (media / "a.bin").write_bytes(content)
    with pytest.raises(SourceError, match=r"^source\.path: a\.bin "):
        await pages(source_of(args, job_folder, type="archive", path=str(media / "a.bin")))


@pytest.mark.parametrize("offset", [1 << 20, 1 << 63])
async def test_a_member_beyond_the_end_is_unreadable(media: Path, job_folder: Path, args: AppArgs, offset: int) -> None:
    path = media / "a.zip"
    path.write_bytes(zip_with_offset(offset))
    source = source_of(args, job_folder, type="archive", path=str(path))
    first, second = await items(source)
    with pytest.raises(UnreadableItem, match=r"^0\.jpg cannot be unpacked: "):
        await source.read(first)
    assert await source.read(second) == b"1"


async def test_compression_methods_that_are_not_supported_are_named(
    media: Path, job_folder: Path, args: AppArgs
) -> None:
    with zipfile.ZipFile(media / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.jpg", b"x" * 1000)
    source = source_of(args, job_folder, type="archive", path=str(media / "a.zip"))
    with pytest.raises(UnreadableItem, match="compressed with method 12; write the zip file with the method deflate"):
        await source.read((await items(source))[0])


async def test_a_zip_written_to_a_pipe_is_read_also_behind_a_program(
    media: Path, job_folder: Path, args: AppArgs
) -> None:
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes, /) -> int:  # type: ignore[override]
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"1" * 100)
        archive.writestr("b.jpg", b"2" * 100)
        archive.comment = b"a comment"
    for before in (b"", b"PK\3\4 a program that unpacks itself"):
        (media / "a.zip").write_bytes(before + pipe.data)
        source = source_of(args, job_folder, type="archive", path=str(media / "a.zip"))
        assert [await source.read(item) for item in await items(source)] == [b"1" * 100, b"2" * 100]


async def test_the_numbers_of_zip64_are_read(media: Path, job_folder: Path, args: AppArgs) -> None:
    path = media / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as member:
        member.write(b"first")
    data = path.read_bytes()
    entry, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    directory = bytearray(data[entry:end])
    extra = struct.pack("<2H3Q", 1, 24, 5, 5, 0)
    directory[20:28] = b"\xff" * 8  # the sizes
    directory[42:46] = b"\xff" * 4  # the offset
    name_len, extra_len = struct.unpack_from("<2H", directory, 28)
    directory[30:32] = struct.pack("<H", len(extra))
    directory[46 + name_len :] = extra
    assert extra_len in {0, 20}
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), entry)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, entry + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:entry] + bytes(directory) + record + locator + last)
    source = source_of(args, job_folder, type="archive", path=str(path))
    assert [await source.read(item) for item in await items(source)] == [b"first"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
async def test_an_archive_that_changed_or_is_gone_is_not_read(
    media: Path, job_folder: Path, args: AppArgs, kind: str
) -> None:
    path = pack(media / f"a.{kind}", CONTENT)
    source = source_of(args, job_folder, type="archive", path=str(path))
    listed = await pages(source)
    item = listed[0].units[0].items[0]
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChangedItem):
        await source.read(item)
    with pytest.raises(SourceError, match="has changed since it was listed"):
        await pages(source, listed[0].cursor)
    path.unlink()
    with pytest.raises(MissingItem):
        await source.read(item)


async def test_unpacked_content_that_is_not_on_this_machine_makes_the_job_wait(
    media: Path, job_folder: Path, args: AppArgs
) -> None:
    path = pack(media / "a.tar.gz", CONTENT)
    source = source_of(args, job_folder, type="archive", path=str(path))
    item = (await items(source))[0]
    (job_folder / "unpacked.tar").unlink()
    with pytest.raises(Unavailable, match="SERVE_APP_STATE_DIR") as caught:
        await source.read(item)
    assert caught.value.retry_after_s == archives._RETRY_AFTER_S

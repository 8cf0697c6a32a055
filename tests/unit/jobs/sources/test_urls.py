"""Lists of URLs are read from the request or from a file, and fetched only by the guarded client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppArgs
from serve_app.errors import InvalidUrl, SourceError, TooLarge, Unfetchable, UrlsDisabled
from serve_app.jobs.units import Item
from tests.support.sources import check_resumption, items, pages, source_of
from tests.support.web_server import WebServer, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> AsyncIterator[WebServer]:
    """Start a web server at the allowed address."""
    server = WebServer()
    await server.start()
    yield server
    await server.stop()


async def test_images_are_fetched_and_ids_are_kept(server: WebServer, args: AppArgs) -> None:
    server.answers |= {"/a.jpg": ok(b"1"), "/b.jpg": ok(b"2")}
    urls = [f"{server.url}/a.jpg?size=1", {"url": f"{server.url}/b.jpg", "id": "mine"}]
    source = source_of(args, type="urls", urls=urls)
    listed = await items(source)
    assert listed == [Item(f"{server.url}/a.jpg?size=1"), Item(f"{server.url}/b.jpg", id="mine")]
    assert [await source.read(item) for item in listed] == [b"1", b"2"]
    await source.close()


async def test_addresses_and_answers_that_are_not_allowed_are_refused(server: WebServer, args: AppArgs) -> None:
    server.answers |= {"/large": ok(bytes(2**20 + 1)), "/404": b"HTTP/1.1 404 Not\r\nContent-Length: 0\r\n\r\n"}
    urls = [f"{server.url}/large", f"{server.url}/404", "http://127.0.0.1:1/a.jpg", "no url", "file:///etc/passwd"]
    source = source_of(args, type="urls", urls=urls)
    for item, error in zip(
        await items(source), (TooLarge, Unfetchable, InvalidUrl, InvalidUrl, InvalidUrl), strict=True
    ):
        with pytest.raises(error):
            await source.read(item)
    await source.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "https://a/1.jpg\n\n  https://a/2.jpg  \r\nhttps://a/3.jpg"),
        ("list.txt", "\ufeffhttps://a/1.jpg\nhttps://a/2.jpg\nhttps://a/3.jpg\n"),
        ("list.jsonl", '{"url": "https://a/1.jpg"}\n{"url": "https://a/2.jpg", "size": 3}\n{"url": "https://a/3.jpg"}'),
        ("list.CSV", '\ufeffsize,url\n1,https://a/1.jpg\n2,"https://a/2.jpg"\n"3\n4",https://a/3.jpg\n'),
    ],
)
async def test_each_kind_of_list_is_read(media: Path, args: AppArgs, name: str, text: str) -> None:
    (media / name).write_text(text)
    source = source_of(args, type="urls", path=str(media / name))
    assert await items(source) == [Item("https://a/1.jpg"), Item("https://a/2.jpg"), Item("https://a/3.jpg")]


@pytest.mark.parametrize(
    ("name", "text"),
    [("list.jsonl", '{"url": "https://a/1.jpg", "id": "mine"}'), ("list.csv", "id,url\nmine,https://a/1.jpg")],
)
async def test_ids_in_files_are_kept(media: Path, args: AppArgs, name: str, text: str) -> None:
    (media / name).write_text(text)
    assert await items(source_of(args, type="urls", path=str(media / name))) == [Item("https://a/1.jpg", id="mine")]


async def test_a_listing_continues_exactly_after_each_cursor(media: Path, args: AppArgs) -> None:
    urls = [f"https://a/{number}.jpg" for number in range(200)]
    (media / "list").write_text("\n\n".join(urls))
    (media / "list.csv").write_text("url\n" + "\n".join(urls))
    await check_resumption(source_of(args, type="urls", urls=urls))
    await check_resumption(source_of(args, type="urls", path=str(media / "list")))
    await check_resumption(source_of(args, type="urls", path=str(media / "list.csv")))


async def test_a_list_that_changed_is_not_continued(media: Path, args: AppArgs) -> None:
    (media / "list").write_text("\n".join(f"https://a/{number}.jpg" for number in range(50)))
    source = source_of(args, type="urls", path=str(media / "list"))
    cursor = (await pages(source))[0].cursor
    (media / "list").write_text("https://a/1.jpg")
    with pytest.raises(SourceError, match="list has changed since it was listed"):
        await pages(source, cursor)


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("a.txt", b"https://a/1\nhttps://me:hunter2@a/2", "line 2 of a.txt has a URL with a user name or password"),
        ("a.txt", b"https://me:hunter2@a:x/2", "line 1 of a.txt has a URL with a user name or password"),
        ("a.jsonl", b'{"url": "https://hunter2@a/2"}', "line 1 of a.jsonl has a URL with a user name or password"),
        ("a.csv", b"url\nhttps://hunter2@a/2", "line 2 of a.csv has a URL with a user name or password"),
        ("a.jsonl", b'{"url": "hunter2"', "line 1 of a.jsonl is not valid JSON"),
        ("a.jsonl", b'{"url": 1}', "line 1 of a.jsonl must have the text url"),
        ("a.jsonl", b'{"url": "a", "id": 1}', "line 1 of a.jsonl must have the text url"),
        ("a.jsonl", b'{"url": "\\ud800"}', "line 1 of a.jsonl must have a printable URL"),
        ("a.jsonl", b'{"url": ' + b"[" * 60_000, "line 1 of a.jsonl is not valid JSON"),
        ("a.csv", b"name\nhttps://a/1.jpg", "a.csv has no column url"),
        ("a.csv", b"", "a.csv has no column url"),
        ("a.csv", b"url\n" + b'"' + b"x\n" * 100_000, "of a.csv is not valid CSV"),
        ("a.txt", b"https://a/" + b"x" * 9000, "line 1 of a.txt must have a printable URL of at most 8192 characters"),
        ("a.txt", b"\n" + b"x" * 70_000, "line 2 of a.txt is longer than 64 KiB"),
        ("a.txt", b"https://a/\xff", "line 1 of a.txt is not UTF-8"),
        ("a.txt", b"\n \n", "a.txt has no URL"),
    ],
)
async def test_other_lists_are_refused_with_their_line(
    media: Path, args: AppArgs, name: str, content: bytes, detail: str
) -> None:
    (media / name).write_bytes(content)
    with pytest.raises(SourceError) as caught:
        await pages(source_of(args, type="urls", path=str(media / name)))
    assert detail in caught.value.detail
    assert "hunter2" not in caught.value.detail


def test_a_url_with_credentials_in_the_request_is_refused(args: AppArgs) -> None:
    with pytest.raises(SourceError, match=r"^source\.urls\[1\] has a URL with a user name or password") as caught:
        source_of(args, type="urls", urls=["https://a/1", "https://me:hunter2@a/2"])
    assert "hunter2" not in caught.value.detail


def test_a_source_needs_either_a_list_or_a_file(media: Path, args: AppArgs) -> None:
    both: list[dict[str, Any]] = [{}, {"urls": ["https://a/1"], "path": str(media)}]
    for spec in both:
        with pytest.raises(SourceError, match=r"^source needs either urls or path"):
            source_of(args, type="urls", **spec)


def test_urls_need_the_setting() -> None:
    with pytest.raises(UrlsDisabled, match="SERVE_APP_DETECT_URLS=true"):
        source_of(AppArgs(), type="urls", urls=["https://a/1.jpg"])

"""Lists of URLs as a source: in the request, or in a file of text, JSON Lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import BinaryIO

import httpx

from serve_app.config import AppArgs
from serve_app.errors import SourceError, UrlsDisabled
from serve_app.jobs.sources import Page
from serve_app.jobs.sources.listing import ListedItem, PictureSource, pages_of, units_of
from serve_app.jobs.sources.stored_file import StoredFile, join_cursor, listing_errors, open_stored, split_cursor
from serve_app.jobs.units import Item
from serve_app.network.fetching import PictureFetcher
from serve_app.schemas.jobs import UrlsSource as UrlsSpec

_MAX_URL_CHARACTERS = 8192
_MAX_ID_CHARACTERS = 256
_MAX_LINE_BYTES = 1 << 16


class UrlsSource(PictureSource):
    """Images behind URLs, which are fetched with the guarded client."""

    def __init__(self, name: str, items: tuple[Item, ...], file: StoredFile | None, args: AppArgs) -> None:
        """Prepare a source with these items, or with the URLs in ``file``."""
        self.name = name
        self._items = items
        self._file = file
        self._args = args

    @cached_property
    def _fetcher(self) -> PictureFetcher:
        """The client, which only runners need. Making it takes 20 ms, because it reads the certificate authorities."""
        return PictureFetcher(self._args.outbound.guard(), self._args.limits.max_body_mib << 20)

    async def pages(self, cursor: str | None) -> AsyncIterator[Page]:
        """List the URLs after ``cursor``: see ``Source.pages``."""
        if_empty = "source.urls: there is no URL" if self._file is None else f"source.path: {self.name} has no URL"
        async for page in pages_of(units_of(self._list(cursor)), if_empty=if_empty if cursor is None else None):
            yield page

    async def read(self, item: Item) -> bytes:
        """Return an image's bytes: see ``Source.read``."""
        return await self._fetcher.fetch(item.name)

    async def close(self) -> None:
        """Close all idle connections."""
        if "_fetcher" in vars(self):
            await self._fetcher.close()

    def _list(self, cursor: str | None) -> Iterator[ListedItem]:
        if self._file is None:
            first = int(cursor or 0)
            for number, item in enumerate(self._items[first:], first + 1):
                yield item, str(number)
            return
        with listing_errors():
            first, version = split_cursor(cursor, self._file)
            with self._file.open(version) as file:
                items = read_items(file, self._file.name)
                for number, item in enumerate(islice(items, first, None), first + 1):
                    yield item, join_cursor(number, version)


def open_urls(spec: UrlsSpec, args: AppArgs) -> UrlsSource:
    """Return the source for a list of URLs. Raise UrlsDisabled, or SourceError if the list is not valid."""
    _check_enabled(args)
    if bool(spec.urls) == bool(spec.path):
        raise SourceError("source needs either urls or path")
    file = open_stored(spec.path, args) if spec.path else None
    entries = ((entry, "") if isinstance(entry, str) else (entry.url, entry.id) for entry in spec.urls)
    items = tuple(_item(url, own_id, f"source.urls[{number}]") for number, (url, own_id) in enumerate(entries))
    return UrlsSource(file.name if file else f"{len(items)} URLs", items, file, args)


def reopen_urls(args: AppArgs) -> UrlsSource:
    """Return the source for reading listed URLs, which needs no list. Raise UrlsDisabled."""
    _check_enabled(args)
    return UrlsSource("listed URLs", (), None, args)


def read_items(file: BinaryIO, name: str) -> Iterator[Item]:
    """Yield the URLs in a file. A name that ends in ``.csv`` means CSV with a header, and a ``{`` means JSON Lines.

    Raise SourceError, which names the line, if the file is not valid.
    """
    lines = _lines(file, name)
    if PurePosixPath(name).suffix.lower() == ".csv":
        yield from _csv_items(lines, name)
        return
    for number, line in lines:
        text, where = line.strip(), f"source.path: line {number} of {name}"
        if text.startswith("{"):
            yield _json_item(text, where)
        elif text:
            yield _item(text, "", where)


def _check_enabled(args: AppArgs) -> None:
    if not args.outbound.detect_urls:
        raise UrlsDisabled(
            "outbound.detect_urls: fetching images by URL is disabled; use another kind of source, or set "
            "SERVE_APP_DETECT_URLS=true"
        )


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise SourceError(f"source.path: line {number} of {name} is longer than {_MAX_LINE_BYTES >> 10} KiB")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise SourceError(f"source.path: line {number} of {name} is not UTF-8") from None


def _csv_items(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Item]:
    reader = csv.DictReader(line for _, line in lines)
    try:
        if "url" not in (reader.fieldnames or ()):
            raise SourceError(f"source.path: {name} has no column url in its first line")
        for row in reader:
            yield _item(
                (row["url"] or "").strip(), row.get("id") or "", f"source.path: line {reader.line_num} of {name}"
            )
    except csv.Error:
        raise SourceError(f"source.path: line {reader.line_num + 1} of {name} is not valid CSV") from None


def _json_item(text: str, where: str) -> Item:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        raise SourceError(f"{where} is not valid JSON") from None
    if not isinstance(entry.get("url"), str) or not isinstance(entry.get("id", ""), str):
        raise SourceError(f"{where} must have the text url, and may have the text id")
    return _item(entry["url"], entry.get("id", ""), where)


def _item(url: str, own_id: str, where: str) -> Item:
    """Return the item of a URL. A URL that is not valid fails when it is fetched, as a single item.

    A URL with credentials is refused here, because an item's name is stored and shown.
    """
    is_printable = (url + own_id).isprintable()  # not printable: line breaks, and text that is not valid Unicode
    if not url or not is_printable or len(url) > _MAX_URL_CHARACTERS or len(own_id) > _MAX_ID_CHARACTERS:
        raise SourceError(
            f"{where} must have a printable URL of at most {_MAX_URL_CHARACTERS} characters, and an id of at most "
            f"{_MAX_ID_CHARACTERS}"
        )
    if "@" in url and _may_have_credentials(url):
        raise SourceError(f"{where} has a URL with a user name or password, which is not allowed")
    return Item(url, id=own_id)


def _may_have_credentials(url: str) -> bool:
    try:
        return bool(httpx.URL(url).userinfo)
    except (httpx.InvalidURL, ValueError):
        return True

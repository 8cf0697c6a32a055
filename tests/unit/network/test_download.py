"""Downloads from a real HTTPS server continue after interruptions, and come only from the listed hosts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from serve_app.network import download as downloading
from serve_app.network.address_guard import AddressGuard
from tests.support.downloads import fetch, refusal
from tests.support.release_server import ADDRESS, CHECKPOINT, ReleaseServer, trusted_server
from tests.support.traps import Names, Trap

pytestmark = pytest.mark.anyio

SIZE = len(CHECKPOINT)


server = pytest.fixture(trusted_server)


def files(path: Path) -> set[str]:
    """Return the names of the files beside ``path``."""
    return {file.name for file in path.parent.iterdir() if file.is_file()}


async def test_a_file_is_downloaded_and_reported(server: ReleaseServer, path: Path) -> None:
    reports = await fetch(server, path)
    assert path.read_bytes() == CHECKPOINT
    assert (reports[0], reports[-1]) == ((0, SIZE), (SIZE, SIZE))
    assert reports == sorted(reports)
    assert (server.ranges(), files(path)) == ([None], {"a.pt.part"})


async def test_a_broken_download_continues_where_it_stopped(server: ReleaseServer, path: Path) -> None:
    server.cuts = [100_000, 200_000]
    await fetch(server, path)
    assert path.read_bytes() == CHECKPOINT
    assert server.ranges() == [None, "bytes=100000-", "bytes=300000-"]


async def test_a_download_continues_after_the_end_of_its_process(server: ReleaseServer, path: Path) -> None:
    path.write_bytes(CHECKPOINT[:3000])
    path.with_name("a.pt.part.etag").write_text(server.etag)
    await fetch(server, path)
    assert path.read_bytes() == CHECKPOINT
    assert (server.ranges(), files(path)) == (["bytes=3000-"], {"a.pt.part"})


async def test_a_download_without_its_etag_starts_over(server: ReleaseServer, path: Path) -> None:
    path.write_bytes(b"old" * 1000)
    await fetch(server, path)
    assert (path.read_bytes(), server.ranges()) == (CHECKPOINT, [None])


@pytest.mark.parametrize("left", [b"old" * 1000, b"old" * SIZE])
async def test_a_file_that_was_published_again_is_downloaded_from_the_beginning(
    left: bytes, server: ReleaseServer, path: Path
) -> None:
    path.write_bytes(left)
    path.with_name("a.pt.part.etag").write_text('"0"')
    await fetch(server, path)
    assert (path.read_bytes(), server.ranges()) == (CHECKPOINT, [f"bytes={len(left)}-"])


async def test_a_part_that_is_longer_than_the_file_is_replaced(server: ReleaseServer, path: Path) -> None:
    path.write_bytes(b"x" * SIZE)
    path.with_name("a.pt.part.etag").write_text(server.etag)
    await fetch(server, path)
    assert (path.read_bytes(), server.ranges()) == (CHECKPOINT, [f"bytes={SIZE}-", None])


async def test_a_server_without_ranges_sends_the_whole_file_again(server: ReleaseServer, path: Path) -> None:
    server.has_ranges = False
    server.cuts = [100_000]
    await fetch(server, path)
    assert path.read_bytes() == CHECKPOINT
    assert server.ranges() == [None, "bytes=100000-"]


@pytest.mark.parametrize("etag", ['W/"1"', '"\xe9"', f'"{"a" * 10_000}"', '"1'])
async def test_a_weak_or_odd_etag_is_not_used_to_continue(etag: str, server: ReleaseServer, path: Path) -> None:
    server.etag = etag
    server.cuts = [100_000]
    await fetch(server, path)
    assert (path.read_bytes(), server.ranges()) == (CHECKPOINT, [None, None])


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": f"bytes 99999-{SIZE - 1}/{SIZE}"},
        {"Content-Range": f"bytes 100000-100001/{SIZE}"},
        {"Content-Range": f"bytes 100000-{SIZE - 1}/*"},
        {"Content-Range": f"bytes {'9' * 5000}-{SIZE - 1}/{SIZE}"},
        {"Content-Range": None},
        {"ETag": '"2"'},
    ],
)
async def test_a_part_that_does_not_fit_is_never_appended(
    headers: dict[str, str | None], server: ReleaseServer, path: Path
) -> None:
    path.write_bytes(CHECKPOINT[:100_000])
    path.with_name("a.pt.part.etag").write_text(server.etag)
    server.headers = headers
    await fetch(server, path)
    assert (path.read_bytes(), server.ranges()) == (CHECKPOINT, ["bytes=100000-", None])


async def test_a_server_that_always_breaks_at_the_same_byte_is_abandoned(server: ReleaseServer, path: Path) -> None:
    server.has_ranges = False
    server.cuts = [100_000] * 100
    assert "broke" in await refusal(server, path)
    assert len(server.requests) == 4
    server.cuts.clear()
    await fetch(server, path)
    assert path.read_bytes() == CHECKPOINT


async def test_a_server_that_stops_sending_is_abandoned(
    server: ReleaseServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "_TIMEOUT_S", 0.2)
    server.gate.clear()
    server.has_ranges = False
    assert await refusal(server, path) == f"{ADDRESS}: no answer within 0.2 s"


@pytest.mark.parametrize("announced", [SIZE - 1, SIZE + 1])
async def test_a_file_of_another_size_than_announced_is_not_complete(
    announced: int, server: ReleaseServer, path: Path
) -> None:
    """The server closes the connection after its file. The client ignores bytes after the announced size."""
    server.headers = {"Content-Length": str(announced)}
    server.has_ranges = False
    if announced > SIZE:
        assert "broke" in await refusal(server, path)
    else:
        await fetch(server, path)
        assert path.read_bytes() == CHECKPOINT[:announced]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Content-Length": None}, "the server does not say how large the file is"),
        ({"Content-Encoding": "gzip"}, "the server compresses its answer, although it was asked not to"),
    ],
)
async def test_an_answer_that_cannot_be_checked_is_refused(
    headers: dict[str, str | None], reason: str, server: ReleaseServer, path: Path
) -> None:
    server.headers = headers
    assert await refusal(server, path) == reason
    assert files(path) == set()


async def test_a_file_that_is_too_large_is_refused_before_it_is_read(server: ReleaseServer, path: Path) -> None:
    await fetch(server, path, max_bytes=SIZE)
    path.unlink()
    reason = f"the file has {SIZE} bytes, but at most {SIZE - 1} are accepted"
    assert await refusal(server, path, max_bytes=SIZE - 1) == reason
    assert files(path) == set()


@pytest.mark.parametrize("status", [201, 204, 206, 300, 400, 403, 404, 416, 500, 501])
async def test_any_other_status_is_refused(status: int, server: ReleaseServer, path: Path) -> None:
    server.status = status
    server.headers = {"Content-Length": "0"}
    server.content = b""
    assert await refusal(server, path) == f"the server answered with status {status}"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_an_overloaded_server_gets_further_requests(status: int, server: ReleaseServer, path: Path) -> None:
    server.errors = [status, status]
    server.cuts = [100_000]
    await fetch(server, path)
    assert (path.read_bytes(), server.ranges()) == (CHECKPOINT, [None, None, None, "bytes=100000-"])
    server.errors = [status] * 100
    path.unlink()
    assert await refusal(server, path) == f"{ADDRESS}: the server answered with status {status}"
    assert len(server.errors) == 97


@pytest.mark.parametrize("asked", ["7", "date"])
async def test_an_overloaded_server_says_when_it_gets_the_next_request(
    asked: str, server: ReleaseServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays_s: list[float] = []

    async def record(delay_s: float) -> None:
        delays_s.append(delay_s)
        server.headers = {}

    monkeypatch.setattr(downloading, "_pause", record)
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.errors = [503]
    server.headers = {"Retry-After": in_a_minute if asked == "date" else asked}
    server.cuts = [100_000]
    await fetch(server, path)
    assert path.read_bytes() == CHECKPOINT
    first_s, second_s = delays_s
    assert first_s == 7 if asked == "7" else 0 < first_s <= 60
    assert second_s == 0  # after a broken connection, no server has asked for a pause


@pytest.mark.parametrize("asked", ["121", "9" * 500, "Fri, 31 Dec 2055 23:59:59 GMT"])
async def test_a_server_that_asks_for_a_long_pause_is_abandoned(asked: str, server: ReleaseServer, path: Path) -> None:
    server.errors = [429] * 2
    server.headers = {"Retry-After": asked}
    reason = "the server is overloaded, and asks for no request within the next 2 min"
    assert await refusal(server, path) == reason
    assert len(server.requests) == 1


@pytest.mark.parametrize("asked", ["", "-1", "soon", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT", "Mon, 99 Jan 0000"])
async def test_an_invalid_or_past_time_for_the_next_request_is_ignored(
    asked: str, server: ReleaseServer, path: Path
) -> None:
    server.errors = [503]
    server.headers = {"Retry-After": asked}
    await fetch(server, path)
    assert (path.read_bytes(), len(server.requests)) == (CHECKPOINT, 2)


async def test_a_server_that_sends_one_byte_at_a_time_is_abandoned(server: ReleaseServer, path: Path) -> None:
    server.cuts = [100_000] + [1] * 20
    assert "broke" in await refusal(server, path)
    assert server.ranges() == [None] + [f"bytes={first}-" for first in (100_000, 100_001, 100_002)]


async def test_a_download_has_a_time_limit(server: ReleaseServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_TOTAL_TIMEOUT_S", 0.3)
    monkeypatch.setattr(downloading, "_TIMEOUT_S", 10)
    server.gate.clear()
    assert await refusal(server, path) == "it takes longer than 0.005 min"


@pytest.mark.parametrize("linked", ["a.pt.part", "a.pt.part.etag"])
async def test_a_link_in_place_of_a_part_is_replaced(linked: str, server: ReleaseServer, path: Path) -> None:
    path.write_bytes(CHECKPOINT[:3000])
    path.with_name("a.pt.part.etag").write_text(server.etag)
    link, other = path.with_name(linked), path.with_name("other")
    link.rename(other)
    link.symlink_to(other)
    before = other.read_bytes()
    await fetch(server, path)
    assert (path.read_bytes(), path.is_symlink(), other.read_bytes()) == (CHECKPOINT, False, before)
    assert server.ranges() == [None]


async def test_redirects_to_the_listed_hosts_are_followed(server: ReleaseServer, path: Path, names: Names) -> None:
    names.known["assets.example"] = [[ADDRESS]]
    assets = f"assets.example:{server.port}"
    server.redirects = {"/release/a.pt": "/moved/a.pt", "/moved/a.pt": f"https://{assets}/a?signature=1"}
    server.cuts = [100_000]
    await fetch(server, path, hosts={server.host, assets})
    assert path.read_bytes() == CHECKPOINT
    once = ["/release/a.pt", "/moved/a.pt", "/a?signature=1"]
    # A signed address may expire, so the second attempt also begins at the first address.
    assert [requested for requested, _ in server.requests] == once * 2
    assert server.ranges() == [None] * 3 + ["bytes=100000-"] * 3


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://other.example/a", "it is redirected to other.example, which is not one of the publisher's hosts"),
        ("https://localhost:{port}/a", "it is redirected to localhost, which is not one of the publisher's hosts"),
        ("https://{host}.other.example/", "it is redirected to an invalid url"),
        ("https://xn--a/", "it is redirected to an invalid url"),
        ("https://127.0.0.2/a", "it is redirected to 127.0.0.2, which is not one of the publisher's hosts"),
        ("https://me@{host}/a", "it is redirected to 127.0.0.2, which is not one of the publisher's hosts"),
        ("http://{host}/a", "it leads to http://, which is not encrypted"),
        ("file:///etc/passwd", "it is redirected to an invalid url"),
        ("/release/a.pt", "it is redirected more than 5 times"),
    ],
)
async def test_a_redirect_to_any_other_place_is_refused(
    location: str, reason: str, server: ReleaseServer, path: Path, forbidden: Trap
) -> None:
    server.redirects = {"/release/a.pt": location.format(host=server.host, port=forbidden.port)}
    assert await refusal(server, path) == reason


async def test_a_listed_host_with_a_private_address_is_refused(
    server: ReleaseServer, path: Path, names: Names, forbidden: Trap
) -> None:
    names.known["assets.example"] = [["127.0.0.1"]]
    assets = f"assets.example:{forbidden.port}"
    server.redirects = {"/release/a.pt": f"https://{assets}/a"}
    reason = await refusal(server, path, hosts={server.host, assets})
    assert reason == "assets.example has an address that is not public"
    guard = AddressGuard((ip_network("10.0.0.0/8"),))
    assert await refusal(server, path, guard=guard) == f"{ADDRESS} has an address that is not public"


async def test_only_https_is_used(server: ReleaseServer, path: Path) -> None:
    reason = await refusal(server, path, url=f"http://{server.host}/release/a.pt")
    assert (reason, server.requests) == ("it leads to http://, which is not encrypted", [])


async def test_a_certificate_that_is_not_trusted_is_refused(
    server: ReleaseServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate verify failed" in await refusal(server, path)
    assert server.requests == []


async def test_a_machine_without_a_network_fails_at_once(server: ReleaseServer, path: Path) -> None:
    reason = await refusal(server, path, url="https://release.example/a.pt", hosts={"release.example"})
    assert reason.startswith("release.example: the server cannot be reached")

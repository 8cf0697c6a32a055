"""Downloads through the proxy that the environment names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.downloads import fetch, refusal
from tests.support.release_server import ADDRESS, CHECKPOINT, ConnectProxy, ReleaseServer, trusted_server

pytestmark = pytest.mark.anyio

server = pytest.fixture(trusted_server)


@pytest.fixture
def proxy(server: ReleaseServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    """Start a proxy that leads to the server, and name it in the environment."""
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ConnectProxy(server.port).run() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:se%40cret@"))
        yield proxy


async def test_the_environments_proxy_is_used_and_resolves_the_names(
    server: ReleaseServer, path: Path, proxy: ConnectProxy
) -> None:
    server.redirects = {"/release/a.pt": "https://assets.example/a"}
    hosts = {"release.example", "assets.example"}
    await fetch(server, path, url="https://release.example/release/a.pt", hosts=hosts)
    assert path.read_bytes() == CHECKPOINT
    assert [head.split()[1] for head in proxy.heads] == ["release.example:443", "assets.example:443"]
    assert all("Proxy-Authorization: Basic bWU6c2VAY3JldA==" in head for head in proxy.heads)


async def test_a_proxy_does_not_widen_the_hosts(server: ReleaseServer, path: Path, proxy: ConnectProxy) -> None:
    server.redirects = {"/release/a.pt": "https://169.254.169.254/a"}
    reason = await refusal(server, path, url="https://release.example/release/a.pt", hosts={"release.example"})
    assert reason == "it is redirected to 169.254.169.254, which is not one of the publisher's hosts"
    assert len(proxy.heads) == 1


async def test_a_proxy_that_refuses_is_named_without_its_password(
    server: ReleaseServer, path: Path, proxy: ConnectProxy
) -> None:
    proxy.status = 407
    reason = await refusal(server, path, url="https://release.example/a.pt", hosts={"release.example"})
    assert reason == f"release.example: the proxy answered 407 Said; the environment names the proxy {proxy.url}"
    assert len(proxy.heads) == 1  # without a single byte, there are no retries


async def test_no_proxy_leads_directly_to_the_host(
    server: ReleaseServer, path: Path, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", ADDRESS)
    await fetch(server, path)
    assert (path.read_bytes(), proxy.heads) == (CHECKPOINT, [])


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://127.0.0.1:port", "http://[::1"])
async def test_a_proxy_of_an_unsupported_kind_is_refused(
    variable: str, value: str, server: ReleaseServer, path: Path, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv(variable, value)
    reason = await refusal(server, path)
    assert reason == f"the environment's proxy is not an http:// address; correct {variable}"

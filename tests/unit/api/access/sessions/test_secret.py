"""The secret that signs the cookies of sessions."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from serve_app.api.access.secret import load_secret
from serve_app.errors import Unavailable
from tests.support.api import Keys, build, is_error
from tests.unit.api.access.sessions.site import Site

pytestmark = pytest.mark.anyio


def test_the_secret_is_made_once_and_only_the_service_can_read_it(tmp_path: Path) -> None:
    first = load_secret(tmp_path / "state")
    assert load_secret(tmp_path / "state") == first
    assert len(first) == 32
    (file,) = (tmp_path / "state").iterdir()  # no temporary file is left
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_all_replicas_read_the_cookies_of_each_other(site: Site) -> None:
    site.api = build(keys=site.keys)
    assert (await site.call("GET", "/session", site.browser())).json()["name"] == "dock"


def test_of_two_replicas_that_make_the_secret_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, link = tmp_path / "state", os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"x" * 32)
        target.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert load_secret(state) == b"x" * 32
    assert len(list(state.iterdir())) == 1


@pytest.mark.parametrize("damage", ["short", "long", "readable", "link", "folder"])
async def test_a_secret_that_others_may_know_is_refused(tmp_path: Path, damage: str) -> None:
    state_dir = tmp_path / "state"
    load_secret(state_dir)
    file = state_dir / "session-secret"
    if damage in {"short", "long"}:
        file.write_bytes(b"x" * (31 if damage == "short" else 33))
    elif damage == "readable":
        file.chmod(0o604)
    else:
        moved = file.rename(state_dir / "moved")
        if damage == "link":
            file.symlink_to(moved)
        else:
            file.mkdir()
    with pytest.raises(Unavailable, match=re.escape("streams.state_dir: its file session-secret")):
        load_secret(state_dir)
    site = Site(Keys(tmp_path / "keys.yaml"))
    response = await site.sign_in()
    assert is_error(response, 503, "unavailable")
    assert str(state_dir) not in response.text

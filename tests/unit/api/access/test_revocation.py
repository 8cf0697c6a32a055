from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.api import Keys, connect_to, served_with


def revoke(keys: Keys, how: str) -> None:
    if how == "removed":
        keys._entries = [entry for entry in keys._entries if entry["name"] != "dock"]
    else:
        entry = next(entry for entry in keys._entries if entry["name"] == "dock")
        changes: dict[str, dict[str, Any]] = {
            "expired": {"expires": "2020-01-01"},
            "other scope": {"scopes": ["detect"]},
        }
        entry |= changes.get(how, {"scopes": ["streams"]})
    keys.save()


@pytest.mark.parametrize("how", ["removed", "expired", "other scope"])
@pytest.mark.parametrize("path", ["events", "preview.mjpeg"])
def test_a_followed_response_ends_when_its_key_is_revoked(keys: Keys, path: str, how: str) -> None:
    with served_with(keys) as served:
        served.streams.owners["lot"] = None  # so that both keys may follow the stream
        other = keys.add("yard", "streams")
        with (
            served.http.stream("GET", f"/streams/lot/{path}") as follower,
            served.http.stream("GET", "/streams/lot/events", headers=other) as unaffected,
        ):
            assert (follower.status_code, unaffected.status_code) == (200, 200)
            revoke(keys, how)
            assert len(list(islice(follower.iter_raw(), 4))) < 4  # the response ends without an error
            served.happen()
            assert any("event: state" in text for text in unaffected.iter_text())


def test_what_an_administrator_follows_ends_when_its_key_is_no_longer_an_administrators(keys: Keys) -> None:
    header = keys.add("dock", "streams", "admin")
    with served_with(keys) as served, served.http.stream("GET", "/streams/lot/events", headers=header) as follower:
        served.streams.owners["lot"] = "yard"
        revoke(keys, "no administrator")
        assert len(list(islice(follower.iter_raw(), 40))) < 40  # the response ends without an error


@pytest.mark.parametrize("how", ["removed", "expired", "other scope"])
def test_a_websocket_is_closed_when_its_key_is_revoked(keys: Keys, how: str) -> None:
    with served_with(keys) as served, connect_to(served) as socket:
        served.happen()
        assert "state" in socket.recv(timeout=60)
        revoke(keys, how)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_followers_stay_connected_while_the_file_is_invalid(keys: Keys) -> None:
    with served_with(keys) as served, connect_to(served) as socket:
        keys.path.write_text("broken: [")
        assert served.http.get("/streams").status_code == 200  # this request makes the server check the file
        served.happen()
        assert "state" in socket.recv(timeout=60)

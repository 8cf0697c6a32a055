from __future__ import annotations

from itertools import islice

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.api import Keys, connect_to, served_with


def revoke(keys: Keys, how: str) -> None:
    if how == "taken out":
        keys._entries = [entry for entry in keys._entries if entry["name"] != "dock"]
    else:
        entry = next(entry for entry in keys._entries if entry["name"] == "dock")
        entry |= {"expires": "2020-01-01"} if how == "expired" else {"scopes": ["detect"]}
    keys.save()


@pytest.mark.parametrize("how", ["taken out", "expired", "of another scope"])
@pytest.mark.parametrize("path", ["events", "preview.mjpeg"])
def test_a_followers_answer_ends_when_its_key_is_no_longer_good(keys: Keys, path: str, how: str) -> None:
    with served_with(keys) as served:
        other = keys.add("yard", "streams")
        with (
            served.http.stream("GET", f"/streams/lot/{path}") as follower,
            served.http.stream("GET", "/streams/lot/events", headers=other) as unhurt,
        ):
            assert (follower.status_code, unhurt.status_code) == (200, 200)
            revoke(keys, how)
            assert len(list(islice(follower.iter_raw(), 4))) < 4  # it ends, and as an answer does that is complete
            served.happen()
            assert any("event: state" in text for text in unhurt.iter_text())


@pytest.mark.parametrize("how", ["taken out", "expired", "of another scope"])
def test_a_websocket_is_closed_when_its_key_is_no_longer_good(keys: Keys, how: str) -> None:
    with served_with(keys) as served, connect_to(served) as socket:
        served.happen()
        assert "state" in socket.recv(timeout=60)
        revoke(keys, how)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_while_the_file_is_broken_followers_stay(keys: Keys) -> None:
    with served_with(keys) as served, connect_to(served) as socket:
        keys.path.write_text("broken: [")
        assert served.http.get("/streams").status_code == 200  # the file has been looked at
        served.happen()
        assert "state" in socket.recv(timeout=60)

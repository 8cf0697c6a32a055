"""Objects in Azure are listed and read as those in S3 are."""

from __future__ import annotations

import pytest

from serve_app.config import AppArgs
from serve_app.jobs.sources import ChangedItem, MissingItem
from tests.support.azurite import COMMAND, azurite, make_container
from tests.support.sources import check_resumption, items, names, source_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(COMMAND is None, reason="azurite-blob is not installed; run npm install --global azurite"),
]


async def test_a_container_is_listed_and_read(args: AppArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    with azurite() as port:
        container = make_container("dock", port, monkeypatch)
        keys = [f"in/{number:02}.jpg" for number in range(50)] + ["in/a b#?%20ü.jpg"]
        for key in keys:
            container.put(key, key.encode())
        container.put("incoming/x.jpg", b"x")
        source = source_of(args, type="objects", uri="az://dock/in")
        listed = await items(source)
        assert await names(source) == keys
        assert [await source.read(item) for item in listed] == [key.encode() for key in keys]
        await check_resumption(source)
        container.put(keys[0], b"another")
        container.delete(keys[1])
        with pytest.raises(ChangedItem):
            await source.read(listed[0])
        with pytest.raises(MissingItem):
            await source.read(listed[1])

"""Fixtures for tests of sessions."""

from __future__ import annotations

import pytest

from tests.support.api import Keys
from tests.unit.api.access.sessions.site import Site


@pytest.fixture(scope="module")
def shared_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.yaml")


@pytest.fixture
def keys(shared_keys: Keys) -> Keys:
    """Return a keys file without keys. All tests share it, and one API with it, because an API takes long to build."""
    shared_keys.clear()
    return shared_keys


@pytest.fixture
async def site(keys: Keys) -> Site:
    site = Site(keys)
    assert (await site.sign_in()).status_code == 200
    return site

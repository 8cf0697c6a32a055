"""Tests of the settings of drift's webhook."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from serve_app.config import DriftArgs
from serve_app.drift.webhook import open_webhook
from serve_app.errors import ConfigError
from serve_app.network.address_guard import AddressGuard


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"webhook_url": "ftp://host/"}, "drift.webhook_url: it must begin with http"),
        ({"webhook_url": "http://"}, "drift.webhook_url is not valid"),
        ({"webhook_url": "http://10.0.0.1/"}, "drift.webhook_url: the url's host has no allowed address"),
        ({"webhook_url": "https://1.1.1.1/", "webhook_secret": "abc"}, "drift.webhook_secret must be whsec_"),
    ],
)
def test_an_error_names_the_setting_that_is_wrong(settings: dict[str, Any], words: str) -> None:
    args = DriftArgs(**{name: SecretStr(value) for name, value in settings.items()})
    with pytest.raises(ConfigError) as caught:
        open_webhook(args, AddressGuard())
    assert str(caught.value).startswith(words)

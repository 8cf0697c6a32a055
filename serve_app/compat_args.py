"""The sections ``compat`` and ``cors`` of the settings: clients of other servers, and web pages of other sites."""

from __future__ import annotations

import re

from pydantic import field_validator

from serve_app.network.address_guard import Network, networks_in
from serve_app.sections import Section, section_field

_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?")
_PORTS = {"http": 80, "https": 443}


class ProtocolArgs(Section):
    """The routes of one protocol."""

    # The routes need an API key as all others do, so they are on by default.
    enabled: bool = True


class KeylessProtocolArgs(ProtocolArgs):
    """The routes of a protocol that has clients which cannot send an API key."""

    allow_from: str | None = None  # if API keys are configured, clients in these networks need none; comma-separated

    @field_validator("allow_from")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        networks_in(value)  # raises a ValueError that names the invalid network
        return value

    def networks(self) -> tuple[Network, ...]:
        """Return the networks in ``allow_from``."""
        return networks_in(self.allow_from)


class DeepStackArgs(KeylessProtocolArgs):
    """The routes of DeepStack and CodeProject.AI."""

    env_prefix = "SERVE_APP_COMPAT_DEEPSTACK_"


class UltralyticsArgs(ProtocolArgs):
    """The routes of the Ultralytics Platform."""

    env_prefix = "SERVE_APP_COMPAT_ULTRALYTICS_"


class OpenInferenceArgs(KeylessProtocolArgs):
    """The routes of the Open Inference Protocol, version 2."""

    env_prefix = "SERVE_APP_COMPAT_OPEN_INFERENCE_"


class RoboflowArgs(ProtocolArgs):
    """The routes of Roboflow's inference server."""

    env_prefix = "SERVE_APP_COMPAT_ROBOFLOW_"


class CompatArgs(Section):
    """The protocols of other servers, whose clients can use this server instead."""

    deepstack: DeepStackArgs = section_field()
    ultralytics: UltralyticsArgs = section_field()
    open_inference: OpenInferenceArgs = section_field()
    roboflow: RoboflowArgs = section_field()

    not_from_env = frozenset({"deepstack", "ultralytics", "open_inference", "roboflow"})

    @property
    def is_enabled(self) -> bool:
        """Whether at least one protocol is enabled."""
        return any(one.enabled for one in (self.deepstack, self.ultralytics, self.open_inference, self.roboflow))


class CorsArgs(Section):
    """The sites whose web pages may read the server's answers."""

    origins: str | None = None  # such as https://app.example, comma-separated

    env_prefix = "SERVE_APP_CORS_"

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, value: str | None) -> str | None:
        _origins(value)
        return value

    def allowed(self) -> frozenset[str]:
        """Return the origins in ``origins``, as browsers send them."""
        return frozenset(_origins(self.origins))


def _origins(text: str | None) -> list[str]:
    return [_origin(part.strip()) for part in (text or "").split(",") if part.strip()]


def _origin(text: str) -> str:
    """Return an origin as browsers send it: in lower case, without a final slash, and without the scheme's own port.

    Raise ValueError if the text is not an origin.
    """
    found = _ORIGIN.fullmatch(text.lower())
    port = int(found[3] or _PORTS[found[1]]) if found else 0
    if not found or not 0 < port < 2**16:
        raise ValueError(
            f"{text!r} is not an origin; list each as https://app.example, without a path, and with an international "
            "name in its ASCII form (xn--…)"
        )
    return f"{found[1]}://{found[2]}{'' if port == _PORTS[found[1]] else f':{port}'}"

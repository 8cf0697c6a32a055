"""API keys: the file that stores their hashes, and the function that makes a new key.

An entry of the file looks like this:

- name: dock                  # keys with the same name are one tenant in the batcher, and own the same streams and jobs
  sha256: 5f0c…               # the SHA-256 hash of the whole key
  scopes: [detect]            # the key's permissions; admin includes all others
  requests_per_s: 50          # optional, like the next two fields; 0 means no limit
  concurrency: 16
  expires: 2027-01-31         # the key is refused from this day on (UTC)
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from serve_app.errors import ConfigError, Forbidden
from serve_app.types import KEY_NAME, Principal

Permission = Literal["detect", "streams", "jobs", "admin"]  # the values that a key's `scopes:` may list
RoutePermission = Permission | Literal["any"]  # what a route may need; every key has the permission "any"

_PREFIX = "sl_"  # lets secret scanners recognise a leaked key
_KEY_BYTES = 32
_MAX_FILE_BYTES = 1 << 20
_MAX_KEYS = 1000  # limited because the key of each request is compared with every entry


class Key(BaseModel):
    """One entry of the API-key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=KEY_NAME)
    # A fast hash without a salt is enough for random secrets of 112 bits or more (NIST SP 800-63B, 5.1.2.2).
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Permission, ...] = Field(min_length=1)
    requests_per_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    concurrency: int | None = Field(None, ge=0)
    expires: date | None = None

    @field_validator("sha256")
    @classmethod
    def _is_not_the_empty_hash(cls, value: str) -> str:
        if value == hashlib.sha256().hexdigest():
            raise ValueError(
                "this is the SHA-256 of an empty string, so the command that makes keys printed nothing; run it again"
            )
        return value

    def allows(self, permission: RoutePermission) -> bool:
        """Return whether the key has this permission; ``admin`` includes every permission."""
        return permission == "any" or permission in self.scopes or "admin" in self.scopes

    def check(self, permission: RoutePermission) -> None:
        """Raise Forbidden if the key does not have this permission."""
        if not self.allows(permission):
            raise Forbidden(
                f"this API key lacks the permission {permission!r} and has only {', '.join(self.scopes)}; use a key "
                "with that permission"
            )

    @property
    def principal(self) -> Principal:
        """The key's name, under which it owns streams and jobs, and whether it is an administrator's."""
        return Principal(self.name, is_admin=self.allows("admin"))

    def has_expired(self) -> bool:
        """Return whether the key's expiry date (UTC) has been reached."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


def parse_keys(text: str) -> tuple[Key, ...]:
    """Return the entries of an API-key file.

    Raise ConfigError if the file is invalid. The error never quotes the file, because someone may have pasted a key
    into it.
    """
    try:
        keys = TypeAdapter(tuple[Key, ...]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as exc:
        line = (
            f", line {exc.problem_mark.line + 1}" if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark else ""
        )
        raise ConfigError(f"access.keys_file: the file is not valid YAML{line}; correct it") from None
    except ValidationError as exc:
        problems = (f"{'.'.join(map(_field_name, e['loc']))}: {e['msg']}" for e in exc.errors(include_input=False))
        raise ConfigError(f"access.keys_file: the file has invalid entries: {'; '.join(problems)}") from None
    if len(keys) > _MAX_KEYS:
        raise ConfigError(f"access.keys_file: the file has more than {_MAX_KEYS} keys; remove some")
    if len({key.sha256 for key in keys}) < len(keys):
        raise ConfigError("access.keys_file: the file lists the same key twice; remove one of the entries")
    limits: dict[str, tuple[float | None, int | None]] = {}
    for key in keys:
        key_limits = key.requests_per_s, key.concurrency
        if limits.setdefault(key.name, key_limits) != key_limits:
            raise ConfigError(
                f"access.keys_file: the keys named {key.name} have different limits; keys with the same name share "
                "their limits, so set the same values for all of them"
            )
    return keys


def _field_name(part: int | str) -> str:
    """Return a field's name for an error message. An unknown name is not quoted, because it may be a pasted key."""
    return str(part) if isinstance(part, int) or part in Key.model_fields else "a field"


def find_key(keys: Sequence[Key], presented: str) -> Key | None:
    """Return the entry for a presented key, or None if the key is unknown or has expired.

    Every entry is compared, even after a match, so the response time does not reveal whether the key exists.
    """
    digest = hashlib.sha256(presented.encode()).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return None if found is None or not presented or found.has_expired() else found


class KeyFile:
    """The keys from the last successful read of an API-key file."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raise ConfigError if the file is missing or invalid."""
        self._path = path.expanduser()
        self.keys, self._file_identity = self._read()

    def refresh(self) -> bool:
        """Read the file again if it has changed. Return whether it had changed.

        Raise ConfigError if the file is missing or invalid. The previous keys then stay in use.
        """
        try:
            if _identity(os.stat(self._path)) == self._file_identity:
                return False
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self.keys, self._file_identity = self._read()
        return True

    def _read(self) -> tuple[tuple[Key, ...], tuple[int, ...]]:
        try:
            with open(self._path, "rb") as file:
                file_identity = _identity(os.fstat(file.fileno()))
                data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(
                f"access.keys_file: the file is larger than {_MAX_FILE_BYTES >> 20} MiB; remove some keys"
            )
        try:
            return parse_keys(data.decode()), file_identity
        except UnicodeDecodeError:
            raise ConfigError("access.keys_file: the file is not UTF-8 text; save it as UTF-8") from None

    def _unreadable(self, exc: OSError) -> ConfigError:
        return ConfigError(f"access.keys_file: {self._path} cannot be read: {exc.strerror}")


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    """Return a value that changes when the file changes.

    The value also changes when the path is a symbolic link and the link is pointed at another file. Kubernetes updates
    a mounted secret in this way.
    """
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


def make_key(name: str, permissions: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return a new key and its entry for the API-key file. Raise ValidationError if the name or a scope is invalid."""
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    entry = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": list(permissions)}
    Key.model_validate(entry)
    return key, entry

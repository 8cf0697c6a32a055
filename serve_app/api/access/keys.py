"""API keys: a file that names them by their hashes, and the command that makes one.

- name: dock                  # shows in metrics, and is one tenant in the batcher; several keys may share it
  sha256: 5f0c…               # of the whole key
  scopes: [detect]            # the key's permissions: detect, streams; admin includes both
  requests_per_s: 50          # optional, as are the next two; 0: no limit
  concurrency: 16
  expires: 2027-01-31         # the key is refused from that day on, UTC
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

from serve_app.errors import ConfigError

Permission = Literal["detect", "streams", "admin"]  # a key's `scopes:` lists them

_PREFIX = "sl_"  # by which a scanner for secrets knows a key that was left somewhere
_KEY_BYTES = 32
_MAX_FILE_BYTES = 1 << 20
_MAX_KEYS = 1000  # each is compared with every request's


class Key(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    # A fast hash without salt is right for what is random: NIST SP 800-63B, 5.1.2.2, for secrets of 112 bits and more.
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Permission, ...] = Field(min_length=1)
    requests_per_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    concurrency: int | None = Field(None, ge=0)
    expires: date | None = None

    @field_validator("sha256")
    @classmethod
    def _is_of_something(cls, value: str) -> str:
        if value == hashlib.sha256().hexdigest():
            raise ValueError("this is the SHA-256 of an empty string: the key command printed nothing")
        return value

    def allows(self, permission: Permission) -> bool:
        """Return whether the key has this permission, or admin, which includes all of them."""
        return permission in self.scopes or "admin" in self.scopes

    def has_expired(self) -> bool:
        """Return whether the key's last day, by UTC, is over."""
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


def parse_keys(text: str) -> tuple[Key, ...]:
    """The file's entries. Raises ConfigError, whose text holds nothing of the file: a key may have got into it."""
    try:
        keys = TypeAdapter(tuple[Key, ...]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as exc:
        line = (
            f", line {exc.problem_mark.line + 1}" if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark else ""
        )
        raise ConfigError(f"the keys' file is no YAML{line}") from None
    except ValidationError as exc:
        problems = (f"{'.'.join(map(_shown, e['loc']))}: {e['msg']}" for e in exc.errors(include_input=False))
        raise ConfigError(f"the keys' file is wrong: {'; '.join(problems)}") from None
    if len(keys) > _MAX_KEYS:
        raise ConfigError(f"the keys' file has more than {_MAX_KEYS} keys")
    if len({key.sha256 for key in keys}) < len(keys):
        raise ConfigError("the keys' file has a key twice")
    limits: dict[str, tuple[float | None, int | None]] = {}
    for key in keys:
        own = key.requests_per_s, key.concurrency
        if limits.setdefault(key.name, own) != own:
            raise ConfigError(f"the keys' file gives {key.name} different limits: its keys share them")
    return keys


def _shown(part: int | str) -> str:
    return str(part) if isinstance(part, int) or part in Key.model_fields else "a field"


def find_key(keys: Sequence[Key], presented: str) -> Key | None:
    """The key's entry; None for one that is unknown or has expired. Takes as long whichever it is."""
    digest = hashlib.sha256(presented.encode()).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return None if found is None or not presented or found.has_expired() else found


class KeyFile:
    """The keys of a file, as they were when it was last read without a fault."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that is missing or broken."""
        self._path = path.expanduser()
        self.keys, self._read_as = self._read()

    def refresh(self) -> bool:
        """Reads the file if it has changed, and whether it had.

        Raises ConfigError, and keeps the keys, while it is missing or broken.
        """
        try:
            if _identity(os.stat(self._path)) == self._read_as:
                return False
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self.keys, self._read_as = self._read()
        return True

    def _read(self) -> tuple[tuple[Key, ...], tuple[int, ...]]:
        try:
            with open(self._path, "rb") as file:
                read_as = _identity(os.fstat(file.fileno()))
                data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(f"the keys' file is larger than {_MAX_FILE_BYTES >> 20} MiB")
        try:
            return parse_keys(data.decode()), read_as
        except UnicodeDecodeError:
            raise ConfigError("the keys' file is no text") from None

    def _unreadable(self, exc: OSError) -> ConfigError:
        return ConfigError(f"the keys' file {self._path} cannot be read: {exc.strerror}")


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    """Changes with the file, also where a link is pointed to another one, as Kubernetes does to a mounted secret."""
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


def make_key(name: str, permissions: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return a new key, and its entry for the file. Raises ValidationError."""
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    entry = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": list(permissions)}
    Key.model_validate(entry)
    return key, entry

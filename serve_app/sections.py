"""Sections of the settings. A setting that is not in the YAML comes from the environment, or else has its default."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

PREFIX = "SERVE_APP_"


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that have a value. An empty YAML entry or environment variable counts as unset."""
    return {key: value for key, value in values.items() if value not in (None, "")}


class Section(BaseModel):
    """A section of the settings. A setting that is not in the YAML comes from the environment or has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    env_prefix: ClassVar[str] = PREFIX  # new sections should use SERVE_APP_<SECTION>_
    not_from_env: ClassVar[frozenset[str]] = frozenset()  # fields that have no environment variable

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        environment = {name: os.environ.get(variable) for variable, name in cls.variables().items()}
        return without_empty(environment) | without_empty(values)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return a dictionary from the name of each environment variable to the name of the field that it sets."""
        return {f"{cls.env_prefix}{name.upper()}": name for name in cls.model_fields if name not in cls.not_from_env}


def section_field() -> Any:
    """Return the default of a field that is a section."""
    # If the YAML lacks a section, Pydantic validates the default as a field of the settings. The error for a wrong
    # environment variable therefore contains the section's name.
    return Field(default={}, validate_default=True)


class SectionGroup(BaseModel):
    """Settings that consist of sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: Any) -> Any:
        return without_empty(values) if isinstance(values, dict) else values

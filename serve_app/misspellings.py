"""Suggestions for names of settings that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import cast, get_args, get_origin

from pydantic import BaseModel


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar name, or None if no name is similar."""
    by_lower_case = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), by_lower_case, n=1)
    return by_lower_case[near[0]] if near else None


def named_variable(variable: str, known: Iterable[str], prefix: str) -> str:
    """Return an unknown variable's name, with the variable that was probably meant. All variables have the prefix."""
    names = {one.removeprefix(prefix): one for one in known}
    near = nearest(variable.removeprefix(prefix), names)
    return f"{variable} (did you mean {names[near]}?)" if near else variable


def suggestion(kind: type[BaseModel], path: tuple[str | int, ...], settings: type[BaseModel]) -> str:
    """Say that ``kind`` has no setting with this path, and name the setting that was probably meant.

    ``settings`` has all sections, in one of which the setting may be.
    """
    *sections, name = map(str, path)
    parts = iter(sections)
    for part in parts:
        annotation = kind.model_fields[part].annotation
        if get_origin(annotation) is dict:  # the section ``models``, in which each model has a name
            next(parts)
            annotation = get_args(annotation)[-1]
        kind = cast(type[BaseModel], annotation)
    near = nearest(name, kind.model_fields) or _in_another_section(name, settings)
    return "there is no such setting; " + (f"did you mean {near}?" if near else f"use {', '.join(kind.model_fields)}")


def _in_another_section(name: str, settings: type[BaseModel]) -> str | None:
    """Return the path of the setting with exactly this name, or None if no section has it."""
    for section, field in settings.model_fields.items():
        if name in getattr(field.annotation, "model_fields", {}):
            return f"{section}.{name}"
    return None

"""Confidence thresholds as clients and settings write them: one number, or a number for each class.

``person:0.6,car:0.4,*:0.5`` has the thresholds of two classes, and ``*`` stands for all others. In JSON and YAML, the
object ``{"person": 0.6, "car": 0.4, "*": 0.5}`` means the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WithJsonSchema, WrapSerializer, WrapValidator
from pydantic_core import PydanticCustomError

OTHERS: Final = "*"  # stands for the classes that are not named
_LOWEST, _HIGHEST = 0.01, 1.0
_RANGE = f"use a number from {_LOWEST} to {_HIGHEST:g}"
_NUMBER_SCHEMA = {"type": "number", "minimum": _LOWEST, "maximum": _HIGHEST}
_SCHEMA = {
    "anyOf": [
        _NUMBER_SCHEMA,
        {"type": "object", "additionalProperties": _NUMBER_SCHEMA, "minProperties": 1},
        {"type": "string", "pattern": r"^.+:[0-9.]+$"},
    ]
}


def number(value: Any) -> Any:
    """Return the value, but refuse a string with an underscore. Pydantic would parse ``0_1`` as the number 1."""
    if isinstance(value, str) and "_" in value:
        raise PydanticCustomError("number", "a number must not contain underscores")
    return value


def split(value: float | Mapping[str, float] | None) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """Return the threshold for all classes that are not named, or None, and the named classes with their thresholds."""
    if not isinstance(value, Mapping):
        return value, ()
    return value.get(OTHERS), tuple((name, each) for name, each in value.items() if name != OTHERS)


def parse(text: str) -> dict[str, str]:
    """Return the thresholds in a text such as ``person:0.6,*:0.5`` by class, as texts.

    The last colon of an entry separates the class from its threshold. A comma ends an entry only after a threshold, so
    labels may have colons and commas. Raise ValueError if an entry has no threshold or a class has two.
    """
    found: dict[str, str] = {}
    entry: list[str] = []  # the parts between commas since the last threshold
    for part in text.split(","):
        end, colon, threshold = part.rpartition(":")
        if not colon or not _is_number(threshold):
            if entry or part:  # a comma before the first class, or after a threshold, has no meaning
                entry.append(part)
            continue
        name = ",".join([*entry, end]).strip()
        if name in found:
            raise ValueError(f"the class {_quoted(name)} has two thresholds; give it one")
        found[name] = threshold.strip()
        entry = []
    if entry:
        rest = _quoted(",".join(entry).strip())
        raise ValueError(f"{rest} does not end in a colon and a number; write it as person:0.6")
    return found


def to_text(value: float | str | Mapping[str, float]) -> str:
    """Return thresholds as a query has them: the reverse of ``parse``. Raise ValueError if a query cannot have them."""
    if not isinstance(value, Mapping):
        return str(value)
    text = ",".join(f"{name}:{each}" for name, each in value.items())
    try:
        sent = parse(text)
    except ValueError:
        sent = {}
    if lost := [str(name) for name in value if str(name) not in sent]:
        raise ValueError(f"confidence: the label {_quoted(lost[0])} cannot be sent in a query; use its class id")
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _quoted(text: str) -> str:
    return repr(text[:64])


def _validate(value: Any, handler: ValidatorFunctionWrapHandler) -> float | dict[str, float]:
    """Return one threshold, or the thresholds by class. Only a number is left to Pydantic."""
    if isinstance(value, bool):
        raise PydanticCustomError("thresholds", "a threshold must be a number; {range}", {"range": _RANGE})
    if isinstance(value, str) and ":" in value:
        try:
            value = parse(value)
        except ValueError as exc:
            raise PydanticCustomError("thresholds", "{reason}", {"reason": str(exc)}) from None
    if isinstance(value, str) and not _is_number(value.replace("_", "")):
        raise PydanticCustomError(
            "thresholds", "the text is neither a number nor a number for each class; write it as 0.5 or person:0.5"
        )
    if not isinstance(value, Mapping):
        checked: float = handler(value)
        return checked
    found = {_name(name): _threshold(name, each) for name, each in value.items()}
    if not found:
        raise PydanticCustomError("thresholds", "no class is named; name at least one, such as person, or *")
    return found[OTHERS] if found.keys() == {OTHERS} else found


def _name(name: Any) -> str:
    """Return the name of a class. Refuse lone surrogates, because UTF-8 cannot encode them."""
    text = str(name)
    if not isinstance(name, str | int) or not text or any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("thresholds", "a class must be a label or a class id, such as person, or *")
    return text


def _threshold(name: Any, value: Any) -> float:
    try:
        threshold = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        threshold = math.nan
    if not _LOWEST <= threshold <= _HIGHEST:
        raise PydanticCustomError(
            "thresholds",
            "the threshold of {name} is {value}; {range}",
            {"name": _quoted(str(name)), "value": str(value)[:64], "range": _RANGE},
        )
    return threshold


if TYPE_CHECKING:
    Confidence: TypeAlias = float | dict[str, float]
else:
    Confidence = Annotated[
        float,
        Field(ge=_LOWEST, le=_HIGHEST, allow_inf_nan=False),
        BeforeValidator(number),
        WrapValidator(_validate),
        WrapSerializer(lambda value, handler: value if isinstance(value, dict) else handler(value)),
        WithJsonSchema(_SCHEMA),
    ]

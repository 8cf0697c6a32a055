"""Patterns such as ``night/**/*.jpg`` for paths and keys."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

_WILDCARD = re.compile(r"[*?\[]")

Matcher = Callable[[str], bool]


def split_glob(path: str) -> tuple[str, str]:
    """Split a path before its first part with a wildcard. The second part is empty if there is no wildcard."""
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if _WILDCARD.search(part)), len(parts))
    return "/".join(parts[:first]), "/".join(parts[first:])


def matcher(pattern: str) -> Matcher:
    """Return a function that says whether a path matches the whole pattern. An empty pattern matches every path.

    ``**`` stands for any number of folders. ``*``, ``?`` and ``[…]`` never match a slash.
    """
    if not pattern:
        return lambda path: True
    # Each part is matched by itself, because one regular expression with many stars could take very long.
    parts = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in pattern.split("/")]
    if parts[-1] is None:
        parts.append(re.compile(""))  # ``**`` at the end means all files below
    return lambda path: _matches(path.split("/"), parts)


def _matches(names: Sequence[str], parts: Sequence[re.Pattern[str] | None]) -> bool:
    """Compare part by part. After a mismatch, let the last ``**`` take one more folder."""
    name = part = 0
    retry: tuple[int, int] | None = None  # where to continue after a mismatch
    while name < len(names):
        wanted = parts[part] if part < len(parts) else None
        if part < len(parts) and wanted is None:
            part += 1
            retry = name + 1, part
        elif wanted is not None and wanted.match(names[name]):
            name, part = name + 1, part + 1
        elif retry is not None:
            name, part = retry
            retry = name + 1, part
        else:
            return False
    return part == len(parts)

"""The examples at the end of a command's help."""

from __future__ import annotations


def examples(*commands: str) -> str:
    """Return the last section of a help text, with one command on each line."""
    return "\n  ".join(["\b\nExamples:", *commands])  # \b keeps the lines as they are

"""The error that a command raises on purpose."""

from __future__ import annotations


class CommandFailed(Exception):
    """A command failed. The message is one sentence for the user."""

"""The output of the commands."""

from __future__ import annotations

import io
import sys


def print_any_text() -> None:
    """Escape printed characters that the output's encoding lacks, for example ASCII. Printing them would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

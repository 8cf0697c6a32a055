"""What the commands print."""

from __future__ import annotations

import io
import sys


def print_any_text() -> None:
    """Escape characters that the terminal's encoding lacks, as in PYTHONIOENCODING=ascii: printing them would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

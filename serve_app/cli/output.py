"""Settings for the output of the command-line programs."""

from __future__ import annotations

import io
import sys


def print_any_text() -> None:
    """Make ``print`` escape characters that the output's encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

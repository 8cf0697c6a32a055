"""The output of the command-line programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence

from pydantic import BaseModel


def print_any_text() -> None:
    """Make ``print`` escape characters that the output's encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(answer: BaseModel | Sequence[BaseModel]) -> None:
    """Print an answer of the server, or a list of answers, as indented JSON."""
    if isinstance(answer, BaseModel):
        print(json.dumps(answer.model_dump(mode="json"), indent=2))
    else:
        print(json.dumps([one.model_dump(mode="json") for one in answer], indent=2))

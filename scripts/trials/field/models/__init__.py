"""Cases of models: their class names, heads, inputs and files. No case uses the server that the trial starts."""

from __future__ import annotations

from scripts.trials.field.models import files, heads, inputs, names, starts

CASES = (*names.CASES, *heads.CASES, *inputs.CASES, *files.CASES, *starts.CASES)

"""Every case of every part of the field."""

from __future__ import annotations

from scripts.trials.field import machines
from scripts.trials.field.case import Case

CASES: tuple[Case, ...] = (*machines.CASES,)

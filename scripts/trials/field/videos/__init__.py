"""Cases of videos, cameras and folders that an earlier version read wrongly or could not read."""

from __future__ import annotations

from scripts.trials.field.case import Case
from scripts.trials.field.videos import file_cases, other_cases, web_cases

CASES: tuple[Case, ...] = (*file_cases.CASES, *web_cases.CASES, *other_cases.CASES)

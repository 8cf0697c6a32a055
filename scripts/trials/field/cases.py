"""All cases from all parts of the field."""

from __future__ import annotations

from scripts.trials.field import clients, machines, models, pictures, videos
from scripts.trials.field.case import Case

CASES: tuple[Case, ...] = (*pictures.CASES, *videos.CASES, *models.CASES, *clients.CASES, *machines.CASES)

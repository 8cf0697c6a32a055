"""All cases of the field trial."""

from __future__ import annotations

from scripts.trials.field import clients, machines, models, pictures, videos
from scripts.trials.field.case import Case

CASES: tuple[Case, ...] = (*pictures.CASES, *videos.CASES, *models.CASES, *clients.CASES, *machines.CASES)

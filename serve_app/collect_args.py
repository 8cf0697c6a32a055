"""The settings of the collection, which keeps images for the training of the next model."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from serve_app.sections import Section

_MIB = 1 << 20


class CollectArgs(Section):
    """The images that are kept for the training of the next model. Without a folder, no image is kept."""

    folder: Path | None = None
    max_disk_gib: float = Field(5.0, gt=0, allow_inf_nan=False)  # the oldest images are deleted first
    # For all replicas and streams together. A single stream also keeps a pause after each image.
    max_per_minute: float = Field(10.0, gt=0, le=6000, allow_inf_nan=False)
    max_age_days: float = Field(30.0, gt=0, le=36_500, allow_inf_nan=False)
    # An image is uncertain if it has a detection whose confidence is at least the first and below the second value.
    uncertain_from: float = Field(0.25, ge=0, le=1, allow_inf_nan=False)
    uncertain_below: float = Field(0.6, ge=0, le=1, allow_inf_nan=False)
    blur: str | None = None  # the labels of objects that are blurred in the kept copy, comma-separated
    excluded_keys: str | None = None  # the names of API keys whose images are never kept, comma-separated

    env_prefix = "SERVE_APP_COLLECT_"

    @model_validator(mode="after")
    def _has_a_range(self) -> CollectArgs:
        if self.uncertain_from > self.uncertain_below:
            raise ValueError("uncertain_from must not exceed uncertain_below; lower it")
        return self

    @property
    def max_bytes(self) -> int:
        """The largest size of the kept images and their labels together."""
        return max(int(self.max_disk_gib * 1024 * _MIB), 1)

    def collection_folder(self) -> Path | None:
        """Return ``folder`` as an absolute path."""
        return self.folder and self.folder.expanduser().resolve()

    def blurred_labels(self) -> frozenset[str]:
        """Return the labels in ``blur``."""
        return _parts(self.blur)

    def excluded_names(self) -> frozenset[str]:
        """Return the names in ``excluded_keys``."""
        return _parts(self.excluded_keys)


def _parts(text: str | None) -> frozenset[str]:
    return frozenset(part.strip() for part in (text or "").split(",") if part.strip())

"""The JSON of the routes below ``/drift``, and of the event ``drift``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FeatureName = Literal[
    "brightness",
    "contrast",
    "sharpness",
    "size",
    "detections",
    "classes",
    "confidence",
    "area",
    "aspect",
    "position",
]
_LATEST_S = 253_402_300_799  # the end of the year 9999
_SOURCE = Field(description="`stream/ID`, `key/NAME`, `http`, `jobs`, or `all` for all sources of the model together.")


class FeatureDrift(BaseModel):
    """How far a feature's current values are from those of the reference."""

    psi: float | None = Field(
        description="The population stability index, corrected for small samples. Null if there is too little data."
    )
    limit: float | None = Field(description="The feature drifts if its `psi` is above this limit.")
    observations: int = Field(description="How many values the current window has.")
    drifting: bool
    detail: str = Field(default="", description="Why `psi` is null; empty if it is not.")


class ReferenceStatus(BaseModel):
    """The images that count as usual."""

    images: int
    hours: list[int] = Field(description="The hours of the day, in UTC, that have enough images. Empty if all are one.")
    origin: Literal["first_images", "set"]


class SourceDrift(BaseModel):
    """The drift of one source of images, with one model.

    In state `learning`, the images become the reference. In state `collecting`, the window does not have enough images
    yet. `drifting` lasts until the features are far below their limits.
    """

    model: str
    version: str | None = Field(description="The model's version. Null for all sources together.")
    source: str = _SOURCE
    state: Literal["learning", "collecting", "steady", "drifting"]
    detail: str = Field(default="", description="What is missing for a comparison, if anything.")
    drifting: list[FeatureName] = Field(default=[], description="The features that drift, the largest `psi` first.")
    since_at_s: float | None = Field(default=None, description="When the drift began, in seconds since the epoch.")
    seen_at_s: float | None = Field(default=None, description="When the last image was measured.")
    window_images: int = 0
    reference: ReferenceStatus | None = None
    features: dict[FeatureName, FeatureDrift] = {}


class DriftReport(BaseModel):
    """The drift of every source that the API key may see."""

    sources: list[SourceDrift]


class DriftChange(BaseModel):
    """The event `drift`: a drift began or ended, or other features drift than before."""

    change: Literal["began", "changed", "ended"]
    model: str
    source: str = _SOURCE
    features: list[FeatureName] = Field(description="The features that drift now, the largest `psi` first.")
    psi: dict[FeatureName, float]
    since_at_s: float | None


class FeatureHistogram(BaseModel):
    """The shares of a feature's values in the reference and in the current window."""

    bins: list[str]
    reference: list[float]
    current: list[float]


class DriftHistograms(BaseModel):
    """The histograms behind the figures of one source."""

    model: str
    source: str = _SOURCE
    features: dict[FeatureName, FeatureHistogram]


class HourCounts(BaseModel):
    """The counts of a reference in one hour of the day."""

    hour: int = Field(ge=0, le=23)
    counts: list[int] = Field(max_length=4096, description="The counts of all bins of all features.")


class ReferenceFile(BaseModel):
    """A reference, as it is saved in a file."""

    format: Literal["sightline-drift-1"] = "sightline-drift-1"
    hours: list[HourCounts] = Field(max_length=24)
    blocks: int = Field(ge=0, description="The number of blocks that were compared with each other.")
    noise: dict[FeatureName, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        description="The largest PSI of a block against the others."
    )


class NewReference(BaseModel):
    """Which images become the reference of a source: those of a range of time, or those of a file."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("default", max_length=64)
    source: str = Field(max_length=128)
    since_at_s: float | None = Field(
        None, ge=0, le=_LATEST_S, description="The start of the range, in seconds since the epoch."
    )
    until_at_s: float | None = Field(None, ge=0, le=_LATEST_S, description="The end of the range. Default: now.")
    reference: ReferenceFile | None = None

    @model_validator(mode="after")
    def _has_one_origin(self) -> NewReference:
        if (self.since_at_s is None) == (self.reference is None):
            raise ValueError("set either since_at_s or reference")
        return self

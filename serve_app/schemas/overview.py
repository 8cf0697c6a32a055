"""The JSON of ``GET /overview``."""

from __future__ import annotations

from pydantic import BaseModel, Field

from serve_app.schemas.drift import FeatureName
from serve_app.schemas.models import ModelStatus


class Histogram(BaseModel):
    """How long a stage took for the images since the replicas started."""

    bounds_ms: list[float] = Field(description="The upper bounds of all buckets but the last, which has none.")
    counts: list[int] = Field(description="The number of images in each bucket; one more than there are bounds.")


class ModelOverview(BaseModel):
    """A model, and what all of its replicas together have done.

    The rates and means are those of the last ten seconds; a mean is null if nothing happened.
    """

    status: ModelStatus = Field(description="The state of one replica, as in `GET /models`.")
    replicas: int = Field(description="The replicas that have answered.")
    images_per_s: float
    mean_batch_size: float | None
    queue_delay_ms: float | None = Field(description="The mean time that an image waits for the engine.")
    images: int = Field(description="Images that the engine has processed since the replicas started.")
    batches: int = Field(description="Batches since the replicas started.")
    stages: dict[str, Histogram] = Field(
        description="Time in the queue, in the engine (`inference`) and after it (`postprocess`)."
    )


class Refusals(BaseModel):
    """How many requests and images were refused for one reason since the replicas started."""

    code: str = Field(description="The error's `code`.")
    limit: str = Field(description="The limit that was reached. Empty if the code is not about a limit.")
    count: int


class DriftingSource(BaseModel):
    """A source that drifts now."""

    model: str
    source: str
    features: list[FeatureName]


class DriftOverview(BaseModel):
    """The drift of the sources that the API key may see."""

    states: dict[str, int] = Field(description="The number of sources in each state.")
    drifting: list[DriftingSource] = Field(description="Up to 32 of the sources that drift.")


class Overview(BaseModel):
    """What the service does now, as the page at `/console` shows it.

    A part is null if it cannot be read at the moment, or if the API key lacks the permission for it.
    """

    at_s: float = Field(description="When the figures were collected, in seconds since the epoch.")
    models: list[ModelOverview] = Field(description="The default model comes first.")
    replicas: dict[str, int] | None = Field(description="The number of running replicas of each deployment.")
    requests_per_s: float = Field(description="Images of `POST /detect` that were answered, in the last ten seconds.")
    stages: dict[str, Histogram] = Field(
        description="For images of requests: the time for decoding (`decode`), and from the Ingress to the answer "
        "(`total`)."
    )
    refusals: list[Refusals] = Field(description="The most frequent first.")
    streams: dict[str, int] | None = Field(
        description="The number of streams in each state, at most a few seconds ago. Permission `streams`."
    )
    jobs: dict[str, int] | None = Field(
        description="The number of jobs in each state, of the newest 100. Permission `jobs`."
    )
    drift: DriftOverview | None
    dashboard_url: str | None = Field(
        default=None,
        description="The address of Ray's dashboard, as Ray gives it. Null if no dashboard runs. Permission `admin`.",
    )

"""The settings: one frozen object, made from ``args:`` in the Serve YAML. A setting with an unknown name is an error.

A setting's value comes from the YAML, or else from the environment variable ``SERVE_APP_<NAME>``, or else from the
default below. Set the variables in the shell in which ``ray start`` or ``serve run`` starts Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator

from serve_app.collect_args import CollectArgs
from serve_app.compat_args import CompatArgs, CorsArgs
from serve_app.detect_args import DetectArgs as DetectArgs  # other packages import it from here
from serve_app.errors import ConfigError
from serve_app.misspellings import named_variable, suggestion
from serve_app.network.address_guard import AddressGuard, networks_in
from serve_app.sections import PREFIX, Section, SectionGroup, section_field, without_empty
from serve_app.types import DEFAULT_MODEL, KEY_NAME, Precision, Traffic

_SHA256 = "^[0-9a-fA-F]{64}$"

JpegDecoding = Literal["reduced", "exact"]
Valid = TypeVar("Valid", bound=BaseModel)


def _is_not_the_default(name: str) -> str:
    if name == DEFAULT_MODEL:
        raise ValueError(f"{DEFAULT_MODEL} is reserved for the model in the section model; use another name")
    return name


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), AfterValidator(_is_not_the_default)]


class ModelArgs(Section):
    """The model, and the engine that runs it."""

    # A .pt or .onnx file, an exported OpenVINO folder, the name of a published model, or the built-in "codes".
    weights: Path = Path("codes")
    # Only a .pt file with this SHA-256 is loaded as a pickle, which can run code. Other files are read without running
    # anything in them.
    weights_sha256: str | None = Field(None, pattern=_SHA256)
    # The engines null and sleep run no model. They are for measuring the rest of the server.
    engine: Literal["auto", "openvino", "onnx", "torch", "tensorrt", "null", "sleep"] = "auto"
    precision: Precision = "auto"
    # A folder of typical images. With precision auto, the engine uses bf16 if the model finds the same objects in
    # these images with bf16 as with fp32. With precision int8, the model is calibrated on these images.
    calibration_dir: Path | None = None
    image_size_px: int = Field(640, ge=32, le=2048, multiple_of=32)  # used only if the weights have no fixed input size
    rectangular: bool = True  # besides the square, also use rectangles, if the weights have no fixed input size
    # The model must detect an object in this image before it serves requests. Without an image, it only has to run.
    known_picture: Path | None = None
    threads: int = Field(0, ge=0, le=1024)  # threads of a CPU engine; 0 means one per core
    cache_dir: Path = Path("~/.cache/sightline")  # for fetched and exported models; nodes may share it


class NamedModelArgs(ModelArgs):
    """A model in the section ``models``.

    The environment variables for the fields in ``not_from_env`` apply only to the default model.
    """

    weights: Path

    not_from_env = frozenset({"weights", "weights_sha256", "known_picture"})


class BatcherArgs(Section):
    """The settings of the batcher, which collects images while the engine is busy."""

    max_batch_size: int = Field(8, ge=1, le=256)
    max_queue_size: int = Field(128, ge=1, le=10_000)  # per kind of traffic
    # If images of all kinds of traffic wait, each kind gets a share of the engine in proportion to its weight.
    interactive_weight: float = Field(8.0, gt=0, le=1000)  # HTTP requests, whose clients wait
    stream_weight: float = Field(4.0, gt=0, le=1000)
    job_weight: float = Field(1.0, gt=0, le=1000)

    @property
    def max_calls(self) -> int:
        """The number of calls that a Detector accepts at the same time.

        The batcher has one queue for each of the three kinds of traffic. This number exceeds the size of all three
        queues together, so that Serve does not refuse calls before the batcher does.
        """
        return 4 * (self.max_queue_size + self.max_batch_size)

    def weights(self) -> dict[Traffic, float]:
        """Return the weight of each kind of traffic."""
        return {"interactive": self.interactive_weight, "stream": self.stream_weight, "job": self.job_weight}


class DetectorArgs(SectionGroup):
    """The settings of a Detector. Nearly all of them may change while the Detector serves: see ``with_user_config``."""

    model: ModelArgs = section_field()
    detect: DetectArgs = section_field()
    batcher: BatcherArgs = section_field()

    def with_user_config(self, user_config: Any) -> DetectorArgs:
        """Return these settings, overridden by a deployment's ``user_config``.

        ``user_config`` has the form of ``args:``. Raise ConfigError if ``user_config`` is invalid.
        """
        if not user_config:
            return self
        if not isinstance(user_config, dict):
            raise ConfigError("user_config: it must be a mapping with the sections model, detect and batcher")
        settings: dict[str, Any] = self.model_dump()
        for section, values in without_empty(user_config).items():
            if isinstance(settings.get(section), dict) and isinstance(values, dict):
                if "weights" in values:
                    settings[section]["weights_sha256"] = None  # this value belonged to the previous weights
                settings[section] |= without_empty(values)
            else:
                settings[section] = values
        changed = _validated(_ChangedArgs, settings, "user_config")
        if changed.batcher.max_queue_size != self.batcher.max_queue_size:
            raise ConfigError("user_config: batcher.max_queue_size cannot change while a Detector runs; set it in args")
        return changed

    def can_reuse_engine_of(self, other: DetectorArgs) -> bool:
        """Return whether an engine that was loaded for the settings ``other`` can be used with these settings."""
        same_batches = self.batcher.max_batch_size == other.batcher.max_batch_size
        return same_batches and self.model.model_dump() == other.model.model_dump()


class _ChangedArgs(DetectorArgs):
    model: NamedModelArgs


class LimitArgs(Section):
    """The limits of one request, and the limit of requests in flight."""

    max_body_mib: int = Field(32, ge=1, le=60)  # must stay below the gRPC limit in configs/serve.env
    max_megapixels: int = Field(50, ge=1, le=170)
    max_requests: int = Field(256, ge=8, le=4096)  # in flight per Ingress replica
    max_images_per_request: int = Field(32, ge=1, le=256)
    deadline_s: float = Field(60.0, gt=0, le=3600)

    @property
    def max_pixels(self) -> int:
        """The largest number of pixels that an image or a frame may have."""
        return self.max_megapixels * 1_000_000


class AccessArgs(Section):
    """API keys, and the limits of each key."""

    keys_file: Path | None = None  # if unset, only requests from this machine are accepted
    # The limits of each key without limits of its own. Each Ingress replica applies them separately. 0 means no limit.
    requests_per_s: float = Field(0.0, ge=0, allow_inf_nan=False)  # without API keys, the limit of all clients together
    concurrency: int = Field(32, ge=0)  # requests in flight, including followed streams


class PreprocessorArgs(Section):
    """The settings of each Preprocessor replica."""

    slots: int = Field(64, ge=1, le=1024)  # requests in flight; each uses one shared-memory slot
    # The number of images that are decoded at the same time. 0 means one image per four cores. Too many decoding
    # threads would slow down the engine.
    decode_threads: int = Field(0, ge=0, le=64)
    # With "reduced", a JPEG that is far larger than the model input is decoded at a fraction of its size, in jobs, too.
    decode: JpegDecoding = "exact"

    @property
    def max_calls(self) -> int:
        """The number of calls that a Preprocessor accepts at the same time.

        For each slot, one call can run and two calls can wait.
        """
        return 3 * self.slots


class StreamArgs(Section):
    """The settings of streams: which files they may read, and where they store data."""

    media_dirs: str = "."  # the folders from which files may be read, colon-separated
    # The folder for registered streams and their progress. A cluster of several machines needs a shared file system for
    # this folder.
    state_dir: Path = Path("~/.local/state/sightline")
    output_dir: Path | None = None  # for recordings, and for sinks that write files; if unset, both are refused
    max_streams: int = Field(256, ge=1, le=100_000)  # each stream has its own process
    # The hardware video decoder. If it is unset or not available, video is decoded in software.
    hwaccel: Literal["cuda", "vaapi", "qsv", "drm", "amf"] | None = None

    def folders(self) -> tuple[Path, ...]:
        """Return ``media_dirs`` as absolute paths with links resolved. Raise ConfigError if a path is invalid."""
        try:
            return tuple(Path(folder).expanduser().resolve() for folder in self.media_dirs.split(":") if folder)
        except (ValueError, RuntimeError) as exc:
            raise ConfigError("streams.media_dirs: it has an invalid path; check SERVE_APP_MEDIA_DIRS") from exc

    def state_folder(self, application: str) -> Path:
        """Return the folder in ``state_dir`` that belongs to an application."""
        return self.state_dir.expanduser().resolve() / application

    def output_folder(self) -> Path | None:
        """Return ``output_dir`` as an absolute path."""
        return self.output_dir and self.output_dir.expanduser().resolve()


class CeleryArgs(Section):
    """The Celery queue from which the server takes tasks. Without a broker, it takes none."""

    # A redis://, rediss://, amqp:// or sqs:// URL. It contains a password, so set it in the environment.
    broker_url: SecretStr | None = None
    backend_url: SecretStr | None = None  # where the results are stored; if unset, tasks have no results
    queue: str = Field("sightline", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")
    # The URL of the queue at SQS. Required with an sqs:// broker, because the server does not create queues.
    queue_url: str | None = Field(None, pattern=r"^https?://\S+$")
    # The name of the API key that owns the jobs of the queue's tasks. Required if API keys are configured.
    owner: str | None = Field(None, pattern=KEY_NAME)

    env_prefix = "SERVE_APP_JOBS_CELERY_"


class JobArgs(Section):
    """The settings of batch jobs."""

    max_jobs: int = Field(1000, ge=1, le=1_000_000)  # jobs that have not ended
    max_open_per_key: int = Field(100, ge=1, le=1_000_000)  # the same for each API key
    max_items: int = Field(10_000_000, ge=1, le=1_000_000_000)  # in one job
    # Prefixes such as s3://dock/in/, separated by spaces, that jobs may read and write. The server's own credentials
    # are used, so without this setting no bucket is allowed.
    allowed_uris: str | None = None
    max_disk_gib: float = Field(20.0, gt=0, allow_inf_nan=False)  # uploads and results of all jobs together
    slots: int = Field(32, ge=1, le=1024)  # images in flight per JobRunner; each uses one shared-memory slot
    decode_threads: int = Field(0, ge=0, le=64)  # per JobRunner; 0 means one per four cores
    max_memory_mib: int = Field(512, ge=64, le=1_048_576)  # encoded images and decoded frames, per JobRunner
    # The share of max_replicas up to which jobs may raise the number of Detectors. With 0, jobs use only the Detectors
    # that other requests need, but at least one.
    scaling_share: float = Field(0.5, ge=0, le=1)
    celery: CeleryArgs = section_field()

    env_prefix = "SERVE_APP_JOBS_"
    not_from_env = frozenset({"celery"})

    def prefixes(self) -> tuple[str, ...]:
        """Return the URI prefixes that jobs may use."""
        return tuple((self.allowed_uris or "").split())


class MqttArgs(Section):
    """The MQTT broker to which the states of streams are published. Without a URL, nothing is published."""

    url: SecretStr | None = None  # mqtt://user:password@host:1883 or mqtts://…; set it in the environment
    # The beginning of all topics. Each server that uses the same broker needs its own.
    topic: str = Field("sightline", pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=128)
    home_assistant: bool = False  # also publish what Home Assistant needs to show the streams, and their last pictures

    env_prefix = "SERVE_APP_MQTT_"


class DriftArgs(Section):
    """The monitor of drift, which compares current images and detections with those of a reference."""

    enabled: bool = True  # if false, images are only counted
    reference_images: int = Field(1000, ge=200, le=100_000)  # for streams, in each hour of the day
    window_images: int = Field(100, ge=50, le=10_000)
    stream_interval_s: float = Field(5.0, ge=0, le=3600)  # at least this time between two measured frames of a stream
    # A feature drifts if its PSI is above this limit, and above the limits that follow from the reference itself.
    threshold: float = Field(0.5, gt=0, le=5, allow_inf_nan=False)
    webhook_url: SecretStr | None = None  # gets the event drift of every source; it may contain a token
    webhook_secret: SecretStr | None = None  # signs the requests; whsec_ followed by base64

    env_prefix = "SERVE_APP_DRIFT_"

    @model_validator(mode="after")
    def _reference_has_blocks(self) -> DriftArgs:
        if self.reference_images < 4 * self.window_images:  # its blocks show how much it varies
            raise ValueError("reference_images must be at least four times window_images")
        return self


class TelemetryArgs(Section):
    """Where counts are sent, besides the metrics."""

    cloudwatch: str | None = None  # stdout, the path of a file, or the agent's address such as tcp://127.0.0.1:25888

    env_prefix = "SERVE_APP_TELEMETRY_"


class OutboundArgs(Section):
    """The addresses to which the server may connect for image URLs and sinks.

    The addresses of cameras are not limited.
    """

    allowed_networks: str | None = None  # networks allowed in addition to public addresses, comma-separated
    detect_urls: bool = False  # allow POST /detect {"url": …}

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        networks_in(value)  # raises a ValueError that names the invalid network
        return value

    def guard(self) -> AddressGuard:
        """Return the guard that checks addresses against these settings."""
        return AddressGuard(networks_in(self.allowed_networks))


class AppArgs(DetectorArgs):
    """All settings of the application."""

    # Further models, by name. A request or stream names the model that it wants. The model of the section ``model`` is
    # named "default".
    models: dict[ModelName, NamedModelArgs] = Field(default={}, max_length=64)
    limits: LimitArgs = section_field()
    access: AccessArgs = section_field()
    preprocessor: PreprocessorArgs = section_field()
    streams: StreamArgs = section_field()
    jobs: JobArgs = section_field()
    drift: DriftArgs = section_field()
    telemetry: TelemetryArgs = section_field()
    outbound: OutboundArgs = section_field()
    mqtt: MqttArgs = section_field()
    collect: CollectArgs = section_field()
    compat: CompatArgs = section_field()
    cors: CorsArgs = section_field()

    def detectors(self) -> dict[str, DetectorArgs]:
        """Return the Detector settings of each model, by the model's name."""
        models = {DEFAULT_MODEL: self.model} | self.models
        return {
            name: DetectorArgs(model=model, detect=self.detect, batcher=self.batcher) for name, model in models.items()
        }


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def variables() -> set[str]:
    """Return the names of all environment variables that set a setting."""
    return {name for section in _sections(AppArgs) for name in section.variables()}


def _sections(kind: type[BaseModel]) -> Iterator[type[Section]]:
    """Yield the types of all sections of the settings, and of the sections inside them."""
    for field in kind.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield field.annotation
            yield from _sections(field.annotation)


def parse_args(args: dict[str, Any]) -> AppArgs:
    """Return the settings from the YAML's ``args:`` and the environment.

    Raise ConfigError if a setting is invalid or a ``SERVE_APP_`` variable is unknown. The error names every such
    setting or variable.
    """
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in variables())
    if unknown:
        named = ", ".join(named_variable(name, variables(), PREFIX) for name in unknown)
        raise ConfigError(f"{named}: unknown setting in the environment; correct the name or unset it")
    app_args = _validated(AppArgs, args, "")
    celery = app_args.jobs.celery
    if app_args.access.keys_file and celery.broker_url and not celery.owner:
        raise ConfigError(
            "jobs.celery.owner: API keys are configured, so set it to the name of the key that owns the jobs of tasks"
        )
    if bool(celery.queue_url) != (celery.broker_url or SecretStr("")).get_secret_value().startswith("sqs:"):
        raise ConfigError("jobs.celery.queue_url: set it to the queue's URL if the broker is sqs://, and only then")
    return app_args


def _validated(kind: type[Valid], settings: Any, where: str) -> Valid:
    try:
        return kind.model_validate(settings)
    except ValidationError as exc:
        path = (where,) if where else ()
        problems = (
            f"{'.'.join(map(str, (*path, *e['loc'])))}: "
            + (
                suggestion(kind, e["loc"], AppArgs)
                if e["type"] == "extra_forbidden"
                else f"{e['msg']} (got {e['input']!r})"
            )
            for e in exc.errors()
        )
        raise ConfigError("; ".join(problems)) from exc

"""The settings: one frozen object, made from ``args:`` in the Serve YAML. A setting with an unknown name is an error.

A setting's value comes from the YAML, or else from the environment variable ``SERVE_APP_<NAME>``, or else from the
default below. Set the variables in the shell in which ``ray start`` or ``serve run`` starts Ray.
"""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serve_app.errors import ConfigError
from serve_app.network.address_guard import AddressGuard, Network
from serve_app.types import DEFAULT_MODEL, Precision, Traffic

_PREFIX = "SERVE_APP_"
_SHA256 = "^[0-9a-fA-F]{64}$"

Valid = TypeVar("Valid", bound=BaseModel)


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that have a value. An empty YAML entry or environment variable counts as unset."""
    return {key: value for key, value in values.items() if value not in (None, "")}


class _Section(BaseModel):
    """A section of the settings. A setting that is not in the YAML comes from the environment or has its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    env_prefix: ClassVar[str] = _PREFIX  # new sections should use SERVE_APP_<SECTION>_
    not_from_env: ClassVar[frozenset[str]] = frozenset()  # fields that have no environment variable

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        environment = {name: os.environ.get(variable) for variable, name in cls.variables().items()}
        return _without_empty(environment) | _without_empty(values)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return a dictionary from the name of each environment variable to the name of the field that it sets."""
        return {f"{cls.env_prefix}{name.upper()}": name for name in cls.model_fields if name not in cls.not_from_env}


def _section() -> Any:
    # If the YAML lacks a section, Pydantic validates the default as a field of the settings. The error for a wrong
    # environment variable therefore contains the section's name.
    return Field(default={}, validate_default=True)


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: Any) -> Any:
        return _without_empty(values) if isinstance(values, dict) else values


def _is_not_the_default(name: str) -> str:
    if name == DEFAULT_MODEL:
        raise ValueError(f"{DEFAULT_MODEL} is reserved for the model in the section model; use another name")
    return name


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), AfterValidator(_is_not_the_default)]


class ModelArgs(_Section):
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
    # An image for testing the model. Before the model serves requests, it must detect an object in this image. If no
    # image is set, the model only has to run without an error.
    known_picture: Path | None = None
    threads: int = Field(0, ge=0, le=1024)  # threads of a CPU engine; 0 means one per core
    cache_dir: Path = Path("~/.cache/sightline")  # for fetched and exported models; nodes may share it


class NamedModelArgs(ModelArgs):
    """A model in the section ``models``.

    The environment variables for the fields in ``not_from_env`` apply only to the default model.
    """

    weights: Path

    not_from_env = frozenset({"weights", "weights_sha256", "known_picture"})


class DetectArgs(_Section):
    """The thresholds of requests that do not set their own."""

    confidence: float = Field(0.5, ge=0.01, le=1, allow_inf_nan=False)
    iou: float = Field(0.7, ge=0, le=1, allow_inf_nan=False)
    max_detections: int = Field(300, ge=1, le=3000)


class BatcherArgs(_Section):
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


class DetectorArgs(_Args):
    """The settings of a Detector. Nearly all of them may change while the Detector serves: see ``with_user_config``."""

    model: ModelArgs = _section()
    detect: DetectArgs = _section()
    batcher: BatcherArgs = _section()

    def with_user_config(self, user_config: Any) -> DetectorArgs:
        """Return these settings, overridden by a deployment's ``user_config``.

        ``user_config`` has the form of ``args:``. Raise ConfigError if ``user_config`` is invalid.
        """
        if not user_config:
            return self
        if not isinstance(user_config, dict):
            raise ConfigError("user_config: it must be a mapping with the sections model, detect and batcher")
        settings: dict[str, Any] = self.model_dump()
        for section, values in _without_empty(user_config).items():
            if isinstance(settings.get(section), dict) and isinstance(values, dict):
                if "weights" in values:
                    settings[section]["weights_sha256"] = None  # this value belonged to the previous weights
                settings[section] |= _without_empty(values)
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


class LimitArgs(_Section):
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


class AccessArgs(_Section):
    """API keys, and the limits of each key."""

    keys_file: Path | None = None  # if unset, only requests from this machine are accepted
    # The limits of each key without limits of its own. Each Ingress replica applies them separately. 0 means no limit.
    requests_per_s: float = Field(0.0, ge=0, allow_inf_nan=False)  # without API keys, the limit of all clients together
    concurrency: int = Field(32, ge=0)  # requests in flight, including followed streams


class PreprocessorArgs(_Section):
    """The settings of each Preprocessor replica."""

    slots: int = Field(64, ge=1, le=1024)  # requests in flight; each uses one shared-memory slot
    # The number of images that are decoded at the same time. 0 means one image per four cores. Too many decoding
    # threads would slow down the engine.
    decode_threads: int = Field(0, ge=0, le=64)

    @property
    def max_calls(self) -> int:
        """The number of calls that a Preprocessor accepts at the same time.

        For each slot, one call can run and two calls can wait.
        """
        return 3 * self.slots


class StreamArgs(_Section):
    """The settings of streams: which files they may read, and where they store data."""

    media_dirs: str = "."  # the folders from which files may be read, colon-separated
    # The folder for registered streams and their progress. A cluster of several machines needs a shared file system for
    # this folder.
    state_dir: Path = Path("~/.local/state/sightline")
    output_dir: Path | None = None  # for recordings, and for sinks that write files; if unset, both are refused
    max_streams: int = Field(256, ge=1, le=100_000)  # each stream has its own process
    # The hardware video decoder. If it is unset or not available, video is decoded in software.
    hwaccel: Literal["cuda", "qsv", "drm", "amf"] | None = None

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


class OutboundArgs(_Section):
    """The addresses to which the server may connect for image URLs and sinks.

    The addresses of cameras are not limited.
    """

    allowed_networks: str | None = None  # networks allowed in addition to public addresses, comma-separated
    detect_urls: bool = False  # allow POST /detect {"url": …}

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        _networks(value)  # raises a ValueError that names the invalid network
        return value

    def guard(self) -> AddressGuard:
        """Return the guard that checks addresses against these settings."""
        return AddressGuard(_networks(self.allowed_networks))


class AppArgs(DetectorArgs):
    """All settings of the application."""

    # Further models, by name. A request or stream names the model that it wants. The model of the section ``model`` is
    # named "default".
    models: dict[ModelName, NamedModelArgs] = Field(default={}, max_length=64)
    limits: LimitArgs = _section()
    access: AccessArgs = _section()
    preprocessor: PreprocessorArgs = _section()
    streams: StreamArgs = _section()
    outbound: OutboundArgs = _section()

    def detectors(self) -> dict[str, DetectorArgs]:
        """Return the Detector settings of each model, by the model's name."""
        models = {DEFAULT_MODEL: self.model} | self.models
        return {
            name: DetectorArgs(model=model, detect=self.detect, batcher=self.batcher) for name, model in models.items()
        }


def _networks(text: str | None) -> tuple[Network, ...]:
    return tuple(ip_network(part.strip()) for part in (text or "").split(",") if part.strip())


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def variables() -> set[str]:
    """Return the names of all environment variables that set a setting."""
    sections = (field.annotation for field in AppArgs.model_fields.values())
    return {
        name
        for section in sections
        if isinstance(section, type) and issubclass(section, _Section)
        for name in section.variables()
    }


def parse_args(args: dict[str, Any]) -> AppArgs:
    """Return the settings from the YAML's ``args:`` and the environment.

    Raise ConfigError if a setting is invalid or a ``SERVE_APP_`` variable is unknown. The error names every such
    setting or variable.
    """
    unknown = sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in variables())
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: unknown setting in the environment; correct the name or unset it")
    return _validated(AppArgs, args, "")


def _validated(kind: type[Valid], settings: Any, where: str) -> Valid:
    try:
        return kind.model_validate(settings)
    except ValidationError as exc:
        path = (where,) if where else ()
        problems = (f"{'.'.join(map(str, (*path, *e['loc'])))}: {e['msg']} (got {e['input']!r})" for e in exc.errors())
        raise ConfigError("; ".join(problems)) from exc

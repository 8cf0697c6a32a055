"""Settings, as one frozen value that refuses typos: Serve YAML ``args:`` -> AppArgs -> constructors.

Each setting of a section takes, in this order: the YAML's value, ``SERVE_APP_<NAME>`` from the environment, the default
below. The variable of a section's setting carries the section's prefix, of which the first sections have none. The
environment is that of the process that Ray starts the application from (``ray start``'s or ``serve run``'s shell).
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
    """A setting without a value (``weights:``) is unset, as an empty variable is."""
    return {key: value for key, value in values.items() if value not in (None, "")}


class _Section(BaseModel):
    """A section of the settings. What the YAML leaves open comes from the environment, and else from the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    env_prefix: ClassVar[str] = _PREFIX  # a further section's is SERVE_APP_<SECTION>_
    not_from_env: ClassVar[frozenset[str]] = frozenset()  # fields

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        environment = {name: os.environ.get(variable) for variable, name in cls.variables().items()}
        return _without_empty(environment) | _without_empty(values)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return the field that each variable of the environment sets."""
        return {f"{cls.env_prefix}{name.upper()}": name for name in cls.model_fields if name not in cls.not_from_env}


def _section() -> Any:
    return Field(default={}, validate_default=True)  # validated in its place, so that an error names the section


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: Any) -> Any:
        return _without_empty(values) if isinstance(values, dict) else values


def _is_not_the_default(name: str) -> str:
    if name == DEFAULT_MODEL:
        raise ValueError(f"{DEFAULT_MODEL} is the name of the model in the section model")
    return name


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), AfterValidator(_is_not_the_default)]


class ModelArgs(_Section):
    """Which model, and what runs it."""

    weights: Path = Path("codes")  # .pt, .onnx, an exported OpenVINO folder, or the embedded "codes"
    # Of the file: a .pt, which is a pickle, is loaded only if this names it.
    weights_sha256: str | None = Field(None, pattern=_SHA256)
    # null and sleep have no model: they are for measuring everything else.
    engine: Literal["auto", "openvino", "onnx", "torch", "tensorrt", "null", "sleep"] = "auto"
    precision: Precision = "auto"
    # Pictures like those to come: auto computes in bf16 where it finds the same on them, int8 is fitted to them.
    calibration_dir: Path | None = None
    image_size_px: int = Field(640, ge=32, le=2048, multiple_of=32)  # where the file leaves it open
    # In which the model has to find something before it serves; unset, it only has to compute on a picture of ours.
    known_picture: Path | None = None
    threads: int = Field(0, ge=0, le=1024)  # of a CPU engine; 0: one per core
    cache_dir: Path = Path("~/.cache/sightline")  # exported models; may be shared by nodes


class NamedModelArgs(ModelArgs):
    """A model that is named in ``models``: the environment's weights are those of the default model, not its."""

    weights: Path

    not_from_env = frozenset({"weights", "weights_sha256", "known_picture"})


class DetectArgs(_Section):
    """Defaults of a request that names no thresholds."""

    confidence: float = Field(0.5, ge=0.01, le=1, allow_inf_nan=False)
    iou: float = Field(0.7, ge=0, le=1, allow_inf_nan=False)
    max_detections: int = Field(300, ge=1, le=3000)


class BatcherArgs(_Section):
    """How pictures gather while the engine is busy."""

    max_batch_size: int = Field(8, ge=1, le=256)
    max_queue_size: int = Field(128, ge=1, le=10_000)  # of each kind of traffic
    # While all kinds wait, each has a share of the engine in proportion to its weight.
    interactive_weight: float = Field(8.0, gt=0, le=1000)  # clients that wait for an answer
    stream_weight: float = Field(4.0, gt=0, le=1000)
    job_weight: float = Field(1.0, gt=0, le=1000)

    @property
    def max_calls(self) -> int:
        """Calls that a Detector takes: more than three full queues, so that the batcher refuses, and knows what."""
        return 4 * (self.max_queue_size + self.max_batch_size)

    def weights(self) -> dict[Traffic, float]:
        """By kind of traffic."""
        return {"interactive": self.interactive_weight, "stream": self.stream_weight, "job": self.job_weight}


class DetectorArgs(_Args):
    """What a Detector serves, and how. All of it may change while it serves: see ``changed_by``."""

    model: ModelArgs = _section()
    detect: DetectArgs = _section()
    batcher: BatcherArgs = _section()

    def changed_by(self, user_config: Any) -> DetectorArgs:
        """With what a deployment's ``user_config`` says instead, of the same form as ``args:``. Raises ConfigError."""
        if not user_config:
            return self
        if not isinstance(user_config, dict):
            raise ConfigError("user_config: its sections are model, detect and batcher")
        settings: dict[str, Any] = self.model_dump()
        for section, values in _without_empty(user_config).items():
            if isinstance(settings.get(section), dict) and isinstance(values, dict):
                if "weights" in values:
                    settings[section]["weights_sha256"] = None  # it was of the others
                settings[section] |= _without_empty(values)
            else:
                settings[section] = values
        changed = _validated(_ChangedArgs, settings, "user_config")
        if changed.batcher.max_queue_size != self.batcher.max_queue_size:
            raise ConfigError("user_config: batcher.max_queue_size cannot change under a Detector: set it in args")
        return changed

    def has_engine_of(self, other: DetectorArgs) -> bool:
        """Whether the engine that was loaded for the other one will do."""
        same_batches = self.batcher.max_batch_size == other.batcher.max_batch_size
        return same_batches and self.model.model_dump() == other.model.model_dump()


class _ChangedArgs(DetectorArgs):
    model: NamedModelArgs


class LimitArgs(_Section):
    """What one request may cost."""

    max_body_mib: int = Field(32, ge=1, le=60)  # below the gRPC limit in configs/serve.env
    max_megapixels: int = Field(50, ge=1, le=170)
    max_requests: int = Field(256, ge=8, le=4096)  # in flight at an Ingress replica
    max_images_per_request: int = Field(32, ge=1, le=256)
    deadline_s: float = Field(60.0, gt=0, le=3600)

    @property
    def max_pixels(self) -> int:
        """The pixels that a picture, or a frame, may have."""
        return self.max_megapixels * 1_000_000


class AccessArgs(_Section):
    """Who may ask, and how much."""

    keys_file: Path | None = None  # unset: only requests from this machine are answered
    # What a key may that names no limits of its own, at each Ingress replica; 0: no limit.
    requests_per_s: float = Field(0.0, ge=0, allow_inf_nan=False)  # all together without keys, too
    concurrency: int = Field(32, ge=0)  # requests and followers in flight


class PreprocessorArgs(_Section):
    """One Preprocessor replica."""

    slots: int = Field(64, ge=1, le=1024)  # requests in flight, one shared-memory slot each
    # Pictures decoded at once; 0: one for four cores. More than are needed take turns with the engine's on its cores.
    decode_threads: int = Field(0, ge=0, le=64)

    @property
    def max_calls(self) -> int:
        """Calls that a Preprocessor takes: those that have a slot, and twice as many that wait for one."""
        return 3 * self.slots


class StreamArgs(_Section):
    """What streams may reach, and where they keep what outlives them."""

    media_dirs: str = "."  # folders that files may come from, colon-separated
    # Which streams there are to be, and how far they have come; of several machines: on a file system they share.
    state_dir: Path = Path("~/.local/state/sightline")
    output_dir: Path | None = None  # of sinks that write files, and of recordings; unset: none
    max_streams: int = Field(256, ge=1, le=100_000)  # that there are: each has a process
    # What decodes video; unset, or where there is none: software.
    hwaccel: Literal["cuda", "qsv", "drm", "amf"] | None = None

    def folders(self) -> tuple[Path, ...]:
        """The folders, absolute, with links resolved. Raises ConfigError."""
        try:
            return tuple(Path(folder).expanduser().resolve() for folder in self.media_dirs.split(":") if folder)
        except (ValueError, RuntimeError) as exc:
            raise ConfigError("SERVE_APP_MEDIA_DIRS names what cannot be a folder") from exc

    def state_folder(self, application: str) -> Path:
        """An application's own part of ``state_dir``."""
        return self.state_dir.expanduser().resolve() / application

    def output_folder(self) -> Path | None:
        """``output_dir``, absolute."""
        return self.output_dir and self.output_dir.expanduser().resolve()


class OutboundArgs(_Section):
    """What a client may make the server connect to: pictures' urls, and sinks of streams. Cameras are anywhere."""

    allowed_networks: str | None = None  # besides what is public, comma-separated
    detect_urls: bool = False  # POST /detect {"url": …}

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        _networks(value)  # a ValueError says which is none
        return value

    def guard(self) -> AddressGuard:
        """Who lets through what is allowed."""
        return AddressGuard(_networks(self.allowed_networks))


class AppArgs(DetectorArgs):
    """All settings of the application."""

    # Models besides the one above, which is called "default": a request, or a stream, names the one that it wants.
    models: dict[ModelName, NamedModelArgs] = Field(default={}, max_length=64)
    limits: LimitArgs = _section()
    access: AccessArgs = _section()
    preprocessor: PreprocessorArgs = _section()
    streams: StreamArgs = _section()
    outbound: OutboundArgs = _section()

    def detectors(self) -> dict[str, DetectorArgs]:
        """What the Detector of each model serves, by the model's name."""
        models = {DEFAULT_MODEL: self.model} | self.models
        return {
            name: DetectorArgs(model=model, detect=self.detect, batcher=self.batcher) for name, model in models.items()
        }


def _networks(text: str | None) -> tuple[Network, ...]:
    return tuple(ip_network(part.strip()) for part in (text or "").split(",") if part.strip())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def variables() -> set[str]:
    """Return the names of all variables of the environment that are read."""
    sections = (field.annotation for field in AppArgs.model_fields.values())
    return {
        name
        for section in sections
        if isinstance(section, type) and issubclass(section, _Section)
        for name in section.variables()
    }


def parse_args(args: dict[str, Any]) -> AppArgs:
    """Settings from the YAML's ``args:`` and the environment.

    Raises ConfigError with one sentence a wrong setting, for an unknown ``SERVE_APP_`` variable too.
    """
    unknown = sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in variables())
    if unknown:
        raise ConfigError(f"unknown setting in the environment: {', '.join(unknown)}")
    return _validated(AppArgs, args, "")


def _validated(kind: type[Valid], settings: Any, where: str) -> Valid:
    try:
        return kind.model_validate(settings)
    except ValidationError as exc:
        path = (where,) if where else ()
        problems = (f"{'.'.join(map(str, (*path, *e['loc'])))}: {e['msg']} (got {e['input']!r})" for e in exc.errors())
        raise ConfigError("wrong setting: " + "; ".join(problems)) from exc

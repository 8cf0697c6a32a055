"""The YAML file of ``sightline streams apply``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from serve_app.cli.errors import CommandFailed
from serve_app.schemas.streams import StreamSpec
from serve_app.types import Json

APPLIED = "applied"  # the name of the tag that holds a hash of a stream's settings


def read_specs(file: Path) -> dict[str, Json]:
    """Return the streams of a YAML file by id. Each stream gets a tag with a hash of its settings.

    Raise CommandFailed if the file or one of its streams is not valid.
    """
    try:
        content = yaml.safe_load(file.read_bytes())
        defaults, streams = content.pop("defaults", None) or {}, content.pop("streams")
    except (OSError, yaml.YAMLError, AttributeError, KeyError) as exc:
        raise CommandFailed(
            f"{file} is not a file of streams: it needs a list `streams:` ({type(exc).__name__})"
        ) from exc
    if content or not isinstance(streams, list):
        raise CommandFailed(
            f"{file} must have a list `streams:`, and may have `defaults:`"
            + (f"; remove {', '.join(map(str, content))}" if content else "")
        )
    specs: dict[str, Json] = {}
    for number, stream in enumerate(streams, 1):
        spec = merged(defaults, stream) if isinstance(stream, dict) else {}
        name = f"{file}: stream {spec.get('id', number)}"
        if "id" not in spec or spec["id"] in specs:
            raise CommandFailed(f"{name} needs a unique id")
        try:
            spec["source"]["uri"] = absolute_source(spec["source"]["uri"], file.parent)
            StreamSpec.model_validate(spec)
        except (KeyError, TypeError) as exc:
            raise CommandFailed(f"{name} needs a source with a uri") from exc
        except ValidationError as exc:
            problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
            raise CommandFailed(f"{name}: {'; '.join(problems)}") from exc
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        spec["tags"] = {**spec.get("tags", {}), APPLIED: digest[:12]}
        specs[spec["id"]] = spec
    return specs


def merged(defaults: Json, over: Json) -> Json:
    """Return ``defaults`` with the values of ``over`` taking precedence. Nested mappings are merged too."""
    both = {
        key: merged(defaults[key], value)
        for key, value in over.items()
        if isinstance(defaults.get(key), dict) and isinstance(value, dict)
    }
    return {**defaults, **over, **both}


def absolute_source(source: str, folder: Path) -> str:
    """Return the absolute path if the source is a local file or folder. Return any other source unchanged."""
    path = folder / Path(source).expanduser()
    return str(path.resolve()) if "://" not in source and path.exists() else source

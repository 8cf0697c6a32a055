"""The configs that come with Sightline, and the flags that Ray needs."""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.errors import ConfigError

_IN_PACKAGE = Path(__file__).parents[1] / "configs"  # the wheel has the configs inside the package
FOLDER = _IN_PACKAGE if _IN_PACKAGE.is_dir() else Path(__file__).parents[2] / "configs"
_NOT_SERVED = {"streams"}  # configs/streams.yaml is an example for ``sightline streams apply``
_FLAG = re.compile(r'^export (\w+)="?(.*?)"?$', re.MULTILINE)
_DEFAULT = re.compile(r"\$\{\w+:-(.*)\}")  # a shell's notation for the default of a variable


def names() -> list[str]:
    """Return the names of the configs that come with Sightline."""
    return sorted({path.stem for path in FOLDER.glob("*.yaml")} - _NOT_SERVED)


def find_config(name: str) -> Path:
    """Return the absolute path of a config: a file, or the file in configs/ that has this name.

    Raise ConfigError if there is neither. A file wins over a name.
    """
    path = Path(name)
    if path.exists() or path.suffix or path.parent != Path():
        return path.absolute()
    if name not in names():
        raise ConfigError(f"CONFIG: there is no config {name}: use {', '.join(names())}, or the path of a file")
    return FOLDER / f"{name}.yaml"


def ray_flags() -> dict[str, str]:
    """Return the flags in configs/serve.env, with the values that a shell would give them."""
    flags = dict(_FLAG.findall((FOLDER / "serve.env").read_text(encoding="utf-8")))
    flags = {name: _DEFAULT.sub(r"\1", value) for name, value in flags.items()}
    return flags | {"RAY_SERVE_HAPROXY_BINARY_PATH": str(FOLDER / "haproxy.py")}

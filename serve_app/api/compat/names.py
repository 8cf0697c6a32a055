"""The names under which the clients of other servers know our models."""

from __future__ import annotations

from pathlib import PurePath

from serve_app.config import AppArgs
from serve_app.errors import ConfigError, NotFound
from serve_app.types import DEFAULT_MODEL

_SUFFIXES = (".pt", ".onnx", ".engine", "_openvino_model")


class ModelNames:
    """The models' names. The default model also has the name of its weights, such as ``yolo26n`` for ``yolo26n.pt``."""

    def __init__(self, args: AppArgs) -> None:
        """Collect the names. Raise ConfigError if clients could confuse two of them."""
        names = list(args.detectors())
        default = _plain(PurePath(args.model.weights).name)
        self._models: dict[str, str] = {}
        for name in names:
            first = self._models.setdefault(_plain(name), name)
            if first != name:
                raise ConfigError(
                    f"models: {name!r} and {first!r} are the same name for the clients of other servers, which ignore "
                    "upper and lower case and a suffix such as .pt; rename one of them"
                )
        self._models.setdefault(default, DEFAULT_MODEL)
        is_named = self._models[default] == DEFAULT_MODEL
        # What lists of models show. Clients show these names to people, who know the name of the weights.
        self.shown = tuple(default if name == DEFAULT_MODEL and is_named else name for name in names)

    def find(self, name: str) -> str:
        """Return the name that a ``DetectParams`` has for a model. Raise NotFound if there is no such model.

        Upper and lower case are the same, and the suffix of a weights file is ignored, because users write both.
        """
        found = self._models.get(_plain(name))
        if found is None:
            raise NotFound(f"no model is named {name[:64]!r}; use one of {', '.join(self.shown)}")
        return found


def _plain(name: str) -> str:
    lower = name.lower()
    return next((lower.removesuffix(suffix) for suffix in _SUFFIXES if lower.endswith(suffix)), lower)

"""The process of one stage. Its argument is the ``Plan`` as JSON."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MODELS = ("trained", "untrained")  # the stages that measure one model


@dataclass(frozen=True)
class Plan:
    """What a stage gets from the command line."""

    stage: str  # the name of the stage
    output: str  # the folder of all results
    weights: str  # the trained model
    pictures: str  # a folder of JPEGs; if empty, scenes are drawn
    small: bool  # use small numbers and models

    @property
    def folder(self) -> Path:
        """The folder of all results."""
        return Path(self.output)

    @property
    def has_gpu(self) -> bool:
        """Whether the stages use a GPU."""
        return bool(torch.cuda.is_available())

    @property
    def is_small(self) -> bool:
        """Whether the numbers are small."""
        return self.small or not self.has_gpu

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes to measure."""
        return [1, 2] if self.is_small else [1, 2, 4, 8, 16, 32]

    def duration_s(self, seconds: float) -> float:
        """Return the duration of a measurement, which is short if the numbers are small."""
        return min(seconds, 0.3) if self.is_small else seconds


class Record:
    """The results of a stage. They are saved to a file whenever one is added."""

    def __init__(self, path: Path) -> None:
        """Start without results. Delete an old file of this name."""
        self._path = path
        self._results: list[dict[str, Any]] = []
        path.unlink(missing_ok=True)

    def add(self, **result: Any) -> None:
        """Add one result, save all results, and print the new one."""
        self._results.append(result)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._results, indent=1))
        os.replace(new, self._path)
        print(json.dumps(result), flush=True)


def main() -> None:
    """Run the stage."""
    plan = Plan(**json.loads(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that ``finally`` blocks stop what a stage has started
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    module = "one_model" if plan.stage in MODELS else plan.stage
    importlib.import_module(f"scripts.gpu_day.{module}").run(plan, Record(plan.folder / f"{plan.stage}.json"))


if __name__ == "__main__":
    main()

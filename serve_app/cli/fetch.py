"""Fetch a published model for ``sightline models fetch`` and ``sightline serve``, and show a progress bar."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from serve_app.config import parse_args
from serve_app.models import published
from serve_app.models.cache import cache_folder


def fetch(name: str, to: Path | None = None, release: published.Release = published.ULTRALYTICS) -> Path:
    """Fetch a published model, and show a progress bar. Return the model's path.

    The model is saved in the folder ``to``. By default, this is the folder ``weights`` of ``model.cache_dir``, where
    the service looks for models. Raise StartError when the model cannot be fetched.
    """
    folder = cache_folder(parse_args({}).model) / "weights" if to is None else to
    return published.fetch(name, folder, progress=ProgressBar(), release=release)


class ProgressBar:
    """Progress as a bar on stderr, or as lines if stderr is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=self._console)
        self._tasks: dict[str, TaskID] = {}

    def wait(self, name: str) -> None:
        """Print that another process fetches the file."""
        self._print(f"waiting for another process, which is fetching {name}")

    def update(self, name: str, received_bytes: int, size_bytes: int) -> None:
        """Draw the bar of a file."""
        if name not in self._tasks:
            if not self._console.is_terminal:
                self._print(f"fetching {name} ({size_bytes / 1e6:.1f} MB)")
            self._tasks[name] = self._bar.add_task(name)
            self._bar.start()
            self._console.show_cursor()  # the bar hides the cursor, which would stay hidden if this process is killed
        self._bar.update(self._tasks[name], completed=received_bytes, total=size_bytes)
        if received_bytes == size_bytes:
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

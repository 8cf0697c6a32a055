"""Read a source as a stream does, and return its frames, their times, or the reason for a refusal."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from scripts.trials.field.case import Case
from serve_app.errors import SourceError
from serve_app.schemas.streams import Policy
from serve_app.streams.capture.capture import Capture
from serve_app.streams.progress import Progress
from serve_app.video.source import parse_source
from serve_app.video.video import open_video

MAX_PIXELS = 50_000_000
_TIMEOUT_S = 60.0


def frames_of(uri: Path | str, most: int | None = None) -> list[np.ndarray]:
    """Return the first ``most`` frames of a source, or all frames if ``most`` is None.

    Raise SourceError if the source is refused.
    """
    with open_video(parse_source(str(uri), (Path("/"),)), max_pixels=MAX_PIXELS) as video:
        return [pixels() for pixels, _ in itertools.islice(video, most)]


def times_of(uri: Path | str, *, max_fps: float | None = None, policy: Policy = "wait") -> list[float]:
    """Return the times of the frames that a stream takes from a source.

    The times are in seconds of the stream's clock.
    """

    async def take_all() -> list[float]:
        capture = Capture(
            parse_source(str(uri), (Path("/"),)), Progress(), policy=policy, max_pixels=MAX_PIXELS, max_fps=max_fps
        )
        capture.start()
        times_s = []
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while (frame := await capture.take()) is not None:
                    times_s.append(frame.stream_time_s)
        finally:
            capture.stop()
        return times_s

    return asyncio.run(take_all())


def refusal_of(uri: Path | str) -> str:
    """Return why a source is refused, or an empty string if it can be read."""
    try:
        frames_of(uri, 1)
    except SourceError as exc:
        return exc.detail
    return ""


def refuses(path: str, *words: str, credentials: str = "") -> Callable[[str], str | None]:
    """Return a function that checks that a server's ``path`` is refused as a source.

    The error must contain ``words``.
    """

    def problem(url: str) -> str | None:
        said = refusal_of(url.replace("//", f"//{credentials}") + path)
        missing = [word for word in words if word not in said]
        return f"the refusal lacks {missing}: {said!r}" if missing else None

    return problem


def file_case(kind: str, member: str, problem: Callable[[Path], str | None], *, is_quick: bool = True) -> Case:
    """Return a case whose check gets an empty folder instead of a server."""

    def in_a_folder(_: str) -> str | None:
        with TemporaryDirectory() as folder:
            try:
                return problem(Path(folder))
            except SourceError as exc:
                return f"it is refused: {exc.detail}"

    return Case(kind, member, in_a_folder, is_quick)

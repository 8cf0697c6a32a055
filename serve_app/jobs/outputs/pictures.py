"""The annotated images and crops of a job, which runners write while they work on a unit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Protocol, cast

from serve_app.config import AppArgs
from serve_app.jobs.outputs.places import Place, open_place
from serve_app.schemas.jobs import JobSpec, OutputSpec

_MAX_WRITES = 32  # at the same time, for a job in a runner

PictureKind = Literal["annotated", "crops"]


class PictureWriter(Protocol):
    """Writes annotated images and crops while a runner has the pixels."""

    @property
    def wanted(self) -> Collection[PictureKind]:
        """The kinds of images that an output wants."""

    async def put(self, name: str, data: bytes) -> None:
        """Write a file below each output that wants it, atomically. The name begins with its kind and a slash.

        Several files may be written at the same time. Raise NoSpace, Unavailable or OutputUnwritable if that fails.
        """


class PlacedPictures:
    """Writes each image to all places that want its kind."""

    def __init__(self, places: Mapping[PictureKind, list[Place]]) -> None:
        self._places = places
        self._writes = asyncio.Semaphore(_MAX_WRITES)

    @property
    def wanted(self) -> Collection[PictureKind]:
        """The kinds of images that a place wants."""
        return tuple(self._places)

    async def put(self, name: str, data: bytes) -> None:
        """Write an image: see ``PictureWriter.put``."""
        async with self._writes:
            for place in self._places[cast(PictureKind, name.partition("/")[0])]:
                await place.put(name, data)


def open_picture_places(spec: JobSpec, args: AppArgs, own_folder: Path) -> PictureWriter | None:
    """Return the writer of a job's images, or None if no output wants any. Raise the errors of ``open_place``."""
    places: dict[PictureKind, list[Place]] = {}
    for output in spec.outputs:
        kinds = picture_kinds(output)
        place = open_place(output.uri, args, own_folder) if kinds else None
        for kind in kinds:
            assert place is not None
            places.setdefault(kind, []).append(place)
    return PlacedPictures(places) if places else None


def picture_kinds(output: OutputSpec) -> list[PictureKind]:
    """Return the kinds of images that an output wants."""
    wanted: dict[PictureKind, bool] = {"annotated": output.annotated, "crops": output.crops}
    return [kind for kind, is_wanted in wanted.items() if is_wanted]

"""The outputs of jobs. Each format has its own module.

An output is made from the store, and has no times and no random names. The same job gives the same bytes, so a repeated
export overwrites itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from serve_app.config import AppArgs
from serve_app.errors import InvalidParameter, ServeAppError
from serve_app.jobs.outputs import coco, csv, jsonl, parquet, yolo
from serve_app.jobs.outputs import manifest as manifests
from serve_app.jobs.outputs.files import write_file
from serve_app.jobs.outputs.pictures import PictureKind, PictureWriter, open_picture_places, picture_kinds
from serve_app.jobs.outputs.places import open_place
from serve_app.jobs.outputs.results import OutputFile, OutputUnwritable, Results
from serve_app.schemas.jobs import Format, JobFailure, JobSpec, OutputSpec

__all__ = [
    "OutputFile",
    "OutputUnwritable",
    "PictureKind",
    "PictureWriter",
    "Results",
    "check_outputs",
    "file_count",
    "file_name",
    "open_pictures",
    "write_format",
    "write_outputs",
]

RESULTS_FOLDER = "results"  # in the job's own folder
_FORMATS: dict[Format, tuple[str, Callable[[Results, BinaryIO], None]]] = {
    "jsonl": (jsonl.NAME, jsonl.write),
    "csv": (csv.NAME, csv.write),
    "coco": (coco.NAME, coco.write),
    "yolo": (yolo.NAME, yolo.write),
    "parquet": (parquet.NAME, parquet.write),
}


def file_name(kind: Format) -> str:
    """Return the name of the file of a format: ``results.jsonl``, ``results.csv``, ``coco.json`` and so on."""
    return _FORMATS[kind][0]


def write_format(kind: Format, results: Results, path: Path) -> OutputFile:
    """Write the results in a format to a file, atomically. This blocks. Return the file's size and hash.

    Raise NoSpace if the disk is full, Unavailable if it cannot be written, and InvalidParameter if a library is not
    installed.
    """
    return write_file(path, lambda file: _FORMATS[kind][1](results, file))


def check_outputs(spec: JobSpec, args: AppArgs) -> None:
    """Raise InvalidParameter if an output is not valid or not allowed, or needs a library that is not installed."""
    places = [output.uri.rstrip("/") for output in spec.outputs]
    if len(set(places)) < len(places):
        raise InvalidParameter("outputs: two outputs have the same uri; give one output all formats")
    for output in spec.outputs:
        if picture_kinds(output) and not output.uri:
            raise InvalidParameter(
                "outputs: annotated and crops need a uri, because the server sends only results; set it to a folder "
                "below SERVE_APP_OUTPUT_DIR or a prefix of a bucket, or get single images from "
                "GET /jobs/{id}/items/{item}/image"
            )
        open_place(output.uri, args, Path())
        if "parquet" in output.formats:
            parquet.check()


def open_pictures(spec: JobSpec, args: AppArgs, folder: Path) -> PictureWriter | None:
    """Return the writer of a job's annotated images and crops, or None if no output wants any.

    ``folder`` is the job's own folder. Raise the errors of ``check_outputs``.
    """
    return open_picture_places(spec, args, folder / RESULTS_FOLDER)


def write_outputs(
    spec: JobSpec, results: Results, folder: Path, args: AppArgs, *, report: Callable[[int, int, str], None]
) -> None:
    """Write the files of every output, and each output's ``manifest.json`` last. This blocks, and may be repeated.

    ``folder`` is the job's own folder. ``report`` gets an output's number, how many files are written, and a problem.
    Raise NoSpace or Unavailable if an output cannot be written now, and OutputUnwritable if it never can. All other
    outputs are written nevertheless.
    """
    if not spec.outputs:
        return
    own_folder = folder / RESULTS_FOLDER
    counted = _Counted(results)
    formats = dict.fromkeys(kind for output in spec.outputs for kind in _formats(output))
    files = {kind: write_format(kind, counted, own_folder / file_name(kind)) for kind in formats}
    failed = write_file(own_folder / jsonl.FAILED_NAME, lambda file: jsonl.write_failed(counted, file))
    problems: list[ServeAppError] = []
    for index, output in enumerate(spec.outputs):
        written = 0
        try:
            place = open_place(output.uri, args, own_folder)
            wanted = [*(files[kind] for kind in _formats(output)), failed]
            for file in wanted:
                place.copy(own_folder / file.name)
                written += 1
                report(index, written, "")
            manifest = manifests.manifest(
                spec.id,
                succeeded=counted.succeeded,
                failed=counted.failed,
                files=wanted,
                pictures=picture_kinds(output),
            )
            place.write(manifests.NAME, manifest)
            report(index, written + 1, "")
        except ServeAppError as exc:
            report(index, written, exc.detail)
            problems.append(exc)
    if problems:  # first the temporary ones, because those are tried again
        raise min(problems, key=lambda problem: isinstance(problem, OutputUnwritable))


def file_count(output: OutputSpec) -> int:
    """Return how many files ``write_outputs`` reports for a complete output."""
    return len(_formats(output)) + 2  # the list of failed items, and the manifest


def _formats(output: OutputSpec) -> list[Format]:
    """Return the formats of an output, without repetitions. JSON Lines are always among them."""
    return list(dict.fromkeys(("jsonl", *output.formats)))


class _Counted:
    """The results of a job, and how many there are, once they have been read to the end."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.succeeded = 0
        self.failed = 0

    def results(self) -> Iterator[str]:
        self.succeeded = 0
        for result in self._results.results():
            self.succeeded += 1
            yield result

    def failures(self) -> Iterable[JobFailure]:
        self.failed = 0
        for failure in self._results.failures():
            self.failed += 1
            yield failure

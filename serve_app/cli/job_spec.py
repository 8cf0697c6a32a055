"""The specification that ``sightline jobs submit`` makes of its arguments."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import yaml

from serve_app.cli.errors import CommandFailed
from serve_app.schemas.jobs import VIDEO_ENDINGS

if TYPE_CHECKING:
    from serve_app.client import Client
    from serve_app.schemas.jobs import JobStatus
    from serve_app.types import Json

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_LISTS = (".txt", ".csv", ".jsonl")
_STORES = ("s3://", "gs://", "az://")
_FORMATS = {".csv": "csv", ".json": "coco", ".zip": "yolo", ".parquet": "parquet"}


def spec_of(
    sources: Sequence[str], detect: Json, outputs: Json, *, every_s: float | None = None, upload: bool = False
) -> Json:
    """Return the specification of a job. Raise CommandFailed if the sources and options do not fit together."""
    spec: Json = {"source": {"type": "upload"} if upload else source_of(sources, every_s)}
    if every_s is not None and spec["source"]["type"] != "video":
        raise CommandFailed("--every-s: the source is not a video; leave out the option")
    if given := {name: value for name, value in detect.items() if value is not None}:
        spec["detect"] = given
    if outputs["uri"] or outputs["formats"] or outputs["annotated"] or outputs["crops"]:
        spec["outputs"] = [outputs | {"formats": outputs["formats"] or ["jsonl"]}]
    return spec


def source_of(sources: Sequence[str], every_s: float | None) -> Json:
    """Return the source of a job, whose type follows from the names. Raise CommandFailed for several sources."""
    first = sources[0]
    if all(source.startswith(("http://", "https://")) for source in sources):
        return {"type": "urls", "urls": list(sources)}
    if len(sources) > 1:
        raise CommandFailed("a job has one source: name a folder or a glob in quotes, or send the files with --upload")
    path, is_object, name = _absolute(first), first.startswith(_STORES), first.lower()
    if "://" in first and not is_object:
        raise CommandFailed(f"{first.partition('://')[0]}://: a job cannot read it; use s3://, gs://, az:// or a path")
    if name.endswith(_ARCHIVES):
        return {"type": "archive", "path": path}
    if name.endswith(_LISTS):
        return {"type": "urls", "path": path}
    if name.endswith(VIDEO_ENDINGS):
        return {"type": "video", "path": path} | ({} if every_s is None else {"every_s": every_s})
    return {"type": "objects", "uri": first} if is_object else {"type": "files", "path": path}


def format_of(path: PurePath) -> str:
    """Return the format of results that a file's name stands for: ``jsonl`` for an unknown name."""
    return _FORMATS.get(path.suffix.lower(), "jsonl")


def read_spec(file: Path, *, upload: bool = False) -> Json:
    """Return the specification in a YAML or JSON file, whose source may be left out if files are uploaded.

    Raise CommandFailed if the file is not valid.
    """
    try:
        spec = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError) as exc:
        raise CommandFailed(f"--spec: {file} cannot be read as YAML ({type(exc).__name__})") from exc
    if not isinstance(spec, dict):
        raise CommandFailed(f"--spec: {file} must be a mapping with the key source")
    if upload and spec.setdefault("source", {"type": "upload"}) != {"type": "upload"}:
        raise CommandFailed(f"--spec: {file} has a source of its own; leave it out of the file, or leave out --upload")
    return spec


def files_of(sources: Sequence[str]) -> dict[str, Path]:
    """Return the files to upload, by their names in the job: files as they are, and the images in folders.

    Say how many other files the folders have. Raise CommandFailed if a file cannot be uploaded, or if two files would
    have the same name.
    """
    from serve_app.errors import InvalidParameter
    from serve_app.jobs.sources.uploads import check_name

    files: dict[str, Path] = {}
    for path, name in _found(sources):
        try:
            check_name(name)
        except InvalidParameter as exc:
            raise CommandFailed(f"{path}: {exc}") from exc
        if name in files:
            raise CommandFailed(f"{files[name]} and {path} would both have the name {name} in the job: rename one")
        files[name] = path
    if not files:
        raise CommandFailed("the folders have no images: name files or folders with images")
    return files


def upload_files(client: Client, job_id: str, files: dict[str, Path]) -> JobStatus:
    """Send the files of ``files_of`` to a job, and start the job. Show a progress bar.

    Raise CommandFailed if a file cannot be read or sent. It says how to continue.
    """
    from rich.console import Console
    from rich.progress import track

    from serve_app.client import SightlineError

    again = f"job {job_id} still waits for its files: repeat the command with --id {job_id}, or delete the job"
    for name, path in track(files.items(), "uploading", console=Console(stderr=True), transient=True):
        try:
            client.jobs.upload(job_id, path, name)
        except OSError as exc:
            raise CommandFailed(f"{path} cannot be read: {exc.strerror}; {again}") from exc
        except SightlineError as exc:
            raise CommandFailed(f"{path} was not uploaded: {exc}; {again}") from exc
    return client.jobs.start(job_id)


def _found(sources: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield each file and its name in the job, which is its path in its folder with ``__`` instead of slashes."""
    from serve_app.jobs.sources.listing import is_picture_name

    others = 0
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            for file in sorted(one for one in path.rglob("*") if one.is_file()):
                below = file.relative_to(path)
                if is_picture_name(str(below)):
                    yield file, "__".join(below.parts)
                else:
                    others += 1
        elif not path.is_file():
            raise CommandFailed(f"{source}: there is no such file; --upload sends files and folders of this machine")
        elif source.lower().endswith((*_ARCHIVES, *_LISTS, *VIDEO_ENDINGS)):
            raise CommandFailed(
                f"{source}: --upload sends only images; unpack an archive, or put the file where the server can read "
                "it, below its SERVE_APP_MEDIA_DIRS, and leave out --upload"
            )
        else:
            yield path, path.name
    if others:
        print(f"files in the folders that are not images, and are not sent: {others}", file=sys.stderr)


def _absolute(source: str) -> str:
    """Return a local path as an absolute path, so that the server finds it. Return any other source unchanged."""
    return source if "://" in source else str(Path.cwd() / Path(source).expanduser())

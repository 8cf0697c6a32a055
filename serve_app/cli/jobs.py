"""The commands ``sightline jobs``, which add, watch and change batch jobs on the running server."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serve_app.cli.confidence import ConfidenceOption
from serve_app.cli.errors import CommandFailed
from serve_app.cli.examples import examples
from serve_app.cli.output import print_json
from serve_app.cli.server import AsJson, Url, connect
from serve_app.cli.streams import split

if TYPE_CHECKING:
    from serve_app.client import Client
    from serve_app.schemas.jobs import JobStatus

_FAILED = {"failed", "cancelled", "expired"}

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="The jobs' ids.", show_default=False)]

app = typer.Typer(
    no_args_is_help=True,
    help="Detect objects in many images at once: folders, archives, buckets, lists of URLs and videos.",
    epilog=examples(
        "sightline jobs submit photos --watch",
        "sightline jobs results night --output night.csv",
        "sightline jobs retry night",
    ),
)


@app.command(
    short_help="Add a job.",
    epilog=examples(
        "sightline jobs submit photos --watch",
        "sightline jobs submit photos --upload --annotated --output found",
        "sightline jobs submit 's3://dock/2026/**/*.jpg' --id night --format coco",
        "sightline jobs submit day.mp4 --every-s 2 --classes person",
        "sightline jobs submit --spec night.yaml",
        "sightline jobs submit photos --upload --spec night.yaml",
    ),
)
def submit(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a glob, a zip or tar file, a video, an s3://, gs:// or az:// prefix, a list of URLs "
            "(.txt, .csv or .jsonl), or several URLs.",
            show_default=False,
        ),
    ] = None,
    job_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The job's id. The same command with the same id adds no second job."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The name of a model.")] = None,
    confidence: ConfidenceOption = None,
    classes: Annotated[list[str] | None, typer.Option(metavar="LABELS", help="Comma-separated labels or ids.")] = None,
    agnostic_nms: Annotated[
        bool | None,
        typer.Option("--agnostic-nms", help="Let boxes of different classes suppress each other.", show_default=False),
    ] = None,
    every_s: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For a video: one frame in this many seconds.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="FORMAT", help="Also write jsonl, csv, coco, yolo or parquet at the end."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="Where the server writes: a folder below its output folder, or an s3://, gs:// or az:// prefix.  "
            "[default: the server keeps the files]",
            show_default=False,
        ),
    ] = "",
    annotated: Annotated[bool, typer.Option("--annotated", help="Also write each image with its boxes.")] = False,
    crops: Annotated[bool, typer.Option("--crops", help="Also write each object as an image.")] = False,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send the images to the server, for a server on another machine.")
    ] = False,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A YAML or JSON file with the whole specification of the job. With --upload, it needs no source.",
        ),
    ] = None,
    watch_it: Annotated[
        bool,
        typer.Option(
            "--watch", help="Show the progress until the job ends. The exit status is 1 if the job does not complete."
        ),
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Add a job. It survives restarts of the server.

    The server reads a local folder or file itself, so it must be below the server's SERVE_APP_MEDIA_DIRS. With
    --upload, each SOURCE is an image or a folder of this machine, and the images are sent to the server instead.
    """
    from serve_app.cli.job_spec import files_of, read_spec, spec_of, upload_files

    detect = {
        "model": model,
        "confidence": confidence,
        "classes": split(classes or []) or None,
        "agnostic_nms": agnostic_nms,
    }
    outputs = {"uri": output, "formats": split(formats or []), "annotated": annotated, "crops": crops}
    if not sources and (spec is None or upload):
        raise typer.BadParameter("name a SOURCE" if upload else "name a SOURCE, or a file with --spec")
    if spec is not None and sources and not upload:
        raise typer.BadParameter("the file of --spec names the source; leave out SOURCE, or send it with --upload")
    if spec is not None and (any(one is not None for one in (*detect.values(), every_s)) or any(outputs.values())):
        raise typer.BadParameter("with --spec, write all settings of the job into the file")
    files = files_of(sources or []) if upload else {}
    if spec is None:
        body = spec_of(sources or [], detect, outputs, every_s=every_s, upload=upload)
    else:
        body = read_spec(spec, upload=upload)
    if job_id is not None:
        body["id"] = job_id
    with connect(url) as client:
        status = client.jobs.put(body) if "id" in body else client.jobs.create(body)
        if upload and status.state == "collecting":
            status = upload_files(client, status.job_id, files)
        if watch_it:
            status = _watch(client, status.job_id)
    _print(status, as_json)
    if watch_it and status.state in _FAILED:
        raise typer.Exit(1)


@app.command("list", epilog=examples("sightline jobs list", "sightline jobs list --state running --json"))
def list_jobs(
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only jobs in this state.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="KEY[=VALUE]", help="Only jobs with this tag.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Print a table of the jobs, the newest first."""
    from rich.console import Console

    from serve_app.cli.job_tables import status_table

    with connect(url) as client:
        jobs = list(client.jobs.list(state=state, tag=tag))
    if as_json:
        print_json(jobs)
    else:
        Console().print(status_table(jobs))


@app.command(epilog=examples("sightline jobs show night"))
def show(job_id: Id, url: Url = None) -> None:
    """Print the whole status of a job as JSON."""
    with connect(url) as client:
        print(client.jobs.status(job_id).model_dump_json(indent=2))


@app.command(epilog=examples("sightline jobs watch night", "sightline jobs watch night --json"))
def watch(job_id: Id, as_json: AsJson = False, url: Url = None) -> None:
    """Show the progress of a job until it ends or Ctrl-C. The job continues after Ctrl-C.

    While the server restarts, the command waits. With --json, print each event of the job as one line of JSON. The exit
    status is 1 if the job does not complete.
    """
    from serve_app.cli.job_tables import current_status
    from serve_app.schemas.jobs import AT_REST

    with suppress(KeyboardInterrupt), connect(url) as client:
        client.health()  # if no server responds now, the command fails, because the URL may be wrong
        status = current_status(client, job_id)
        if as_json:
            for event in client.jobs.events(job_id, after=-1):
                print(event.json, flush=True)
                if event.type != "state" or json.loads(event.json).get("state") not in AT_REST:
                    continue
                status = current_status(client, job_id)
                if status.state in AT_REST:  # otherwise, the job was retried after this event
                    break
        else:
            status = _watch(client, job_id)
            _print(status, as_json=False)
        if status.state in _FAILED:
            raise typer.Exit(1)


@app.command(epilog=examples("sightline jobs items night --failed", "sightline jobs items night --json"))
def items(
    job_id: Id,
    failed: Annotated[bool, typer.Option("--failed", help="Print only the failed items and their reasons.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Print the items of a job that are done, one on each line."""
    from serve_app.cli.job_tables import item_line

    with connect(url) as client:
        for item in client.jobs.items(job_id, state="failed" if failed else None):
            print(item.model_dump_json(exclude_none=True) if as_json else item_line(item))


@app.command(
    epilog=examples(
        "sightline jobs results night --output night.jsonl", "sightline jobs results night --output night.csv"
    )
)
def results(
    job_id: Id,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    kind: Annotated[
        Literal["jsonl", "csv", "coco", "yolo", "parquet"] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl, csv, coco, yolo or parquet.  [default: by the file's name, or else jsonl]",
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Save the results of a job. While the job runs, jsonl and csv have the results so far."""
    from serve_app.cli.job_spec import format_of

    with connect(url) as client:
        try:
            client.jobs.save_results(job_id, output, kind or format_of(output))
        except OSError as exc:
            raise CommandFailed(f"--output: {output} cannot be written: {exc.strerror}") from exc
    print(f"the results were saved to {output}")


@app.command(epilog=examples("sightline jobs cancel night"))
def cancel(ids: Ids, url: Url = None) -> None:
    """Stop each named job before its items are done. The results so far stay readable."""
    _change(ids, url, lambda client, job_id: client.jobs.cancel(job_id))


@app.command(epilog=examples("sightline jobs pause night"))
def pause(ids: Ids, url: Url = None) -> None:
    """Start no new work of each named job until it is resumed."""
    _change(ids, url, lambda client, job_id: client.jobs.pause(job_id))


@app.command(epilog=examples("sightline jobs resume night"))
def resume(ids: Ids, url: Url = None) -> None:
    """Continue each named job that is paused."""
    _change(ids, url, lambda client, job_id: client.jobs.resume(job_id))


@app.command(epilog=examples("sightline jobs retry night", "sightline jobs retry night --code unfetchable"))
def retry(
    job_id: Id,
    codes: Annotated[
        list[str] | None, typer.Option("--code", metavar="CODE", help="Only items that failed with this code.")
    ] = None,
    url: Url = None,
) -> None:
    """Try the failed items of a job again. If the job was cancelled or has failed, also continue with the rest."""
    with connect(url) as client:
        _print(client.jobs.retry(job_id, codes or None), as_json=False)


@app.command(epilog=examples("sightline jobs delete night"))
def delete(ids: Ids, url: Url = None) -> None:
    """Stop each named job, and delete it with its results."""
    with connect(url) as client:
        for job_id in ids:
            client.jobs.delete(job_id)
            print(f"job {job_id} was deleted")


def _change(ids: list[str], url: str | None, change: Callable[[Client, str], JobStatus]) -> None:
    with connect(url) as client:
        for job_id in ids:
            _print(change(client, job_id), as_json=False)


def _watch(client: Client, job_id: str) -> JobStatus:
    """Show a progress bar until the job ends, and return its last status."""
    from serve_app.cli.job_tables import show_progress

    return show_progress(client, job_id)


def _print(status: JobStatus, as_json: bool) -> None:
    from serve_app.cli.job_tables import status_line

    print(status.model_dump_json(indent=2) if as_json else status_line(status))

"""The command ``sightline drift`` and its subcommands.

Without a subcommand, it shows the drift of every source.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.errors import CommandFailed
from serve_app.cli.examples import examples
from serve_app.cli.output import print_json
from serve_app.cli.server import AsJson, Url, connect

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]

app = typer.Typer(
    invoke_without_command=True,
    epilog=examples(
        "sightline drift",
        "sightline drift plot stream/gate --output gate.png",
        "sightline drift reference stream/gate --since 2026-11-01 --until 2026-11-08",
    ),
)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A source, such as stream/gate.", show_default=False)]
Model = Annotated[str, typer.Option(metavar="NAME", help="The name of the model.")]


@app.callback()
def show_drift(context: typer.Context, as_json: AsJson = False, url: Url = None) -> None:
    """Show whether images and detections look different than before."""
    if context.invoked_subcommand is not None:
        return
    with connect(url) as client:
        sources = client.drift()
    if as_json:
        print_json(sources)
        return
    if not sources:
        print("no image has been measured yet")
        return
    from rich.console import Console

    from serve_app.cli.drift_table import drift_table

    Console().print(drift_table(sources))


@app.command(
    short_help="Set or save what a source is compared with.",
    epilog=examples(
        "sightline drift reference stream/gate --since 2026-11-01 --until 2026-11-08",
        "sightline drift reference stream/gate --save gate.json",
        "sightline drift reference stream/yard --file gate.json",
    ),
)
def reference(
    source: Source,
    since: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="Use the images from this local time on.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="The end of the range.  [default: now]")
    ] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Use a reference that was saved.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the present reference, and change nothing.")
    ] = None,
    model: Model = "default",
    url: Url = None,
) -> None:
    """Set the reference of a source to a range of time or to a file, or save it. The API key needs admin."""
    from pydantic import ValidationError

    from serve_app.client import requests
    from serve_app.schemas.drift import NewReference, ReferenceFile

    if sum(given is not None for given in (since, file, save)) != 1:
        raise typer.BadParameter("use exactly one of --since, --file and --save")
    if until is not None and since is None:
        raise typer.BadParameter("--until: use it with --since")
    with connect(url) as client:
        if save is not None:
            saved = client.send(requests.drift_reference(source, model)).model_dump_json()
            try:
                save.write_text(saved)
            except OSError as exc:
                raise CommandFailed(f"--save: {save} cannot be written: {exc.strerror}") from exc
            print(f"{save}: the reference of {source}")
            return
        try:
            given = ReferenceFile.model_validate_json(file.read_bytes()) if file else None
        except OSError as exc:
            raise CommandFailed(f"{file} cannot be read: {exc.strerror}") from exc
        except ValidationError as exc:
            raise CommandFailed(f"{file} is not a reference: save one with sightline drift reference --save") from exc
        new = NewReference(
            model=model,
            source=source,
            since_at_s=max(since.timestamp(), 0) if since else None,
            until_at_s=max(until.timestamp(), 0) if until else (time.time() if since else None),
            reference=given,
        )
        status = client.send(requests.set_drift_reference(new))
    images = status.reference.images if status.reference else 0
    print(f"{source} is now compared with {images} images")


@app.command(epilog=examples("sightline drift plot stream/gate", "sightline drift plot all --output all.png"))
def plot(
    source: Source,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to save the plot.")] = Path("drift.png"),
    model: Model = "default",
    url: Url = None,
) -> None:
    """Draw the current images and detections of a source beside its reference."""
    from serve_app.cli.drift_plot import save_plot
    from serve_app.client import requests

    with connect(url) as client:
        histograms = client.send(requests.drift_histograms(source, model))
    try:
        print(save_plot(histograms, output))
    except OSError as exc:
        raise CommandFailed(f"--output: {output} cannot be written: {exc.strerror}") from exc
    except ValueError as exc:  # matplotlib does not know the suffix
        raise CommandFailed(f"--output: {output} is no picture: use a name that ends in .png, .svg or .pdf") from exc

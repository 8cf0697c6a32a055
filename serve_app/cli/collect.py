"""The command ``sightline collect export``, which exports the images that the service has kept for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.errors import CommandFailed
from serve_app.cli.examples import examples

_EXAMPLES = examples("sightline collect export kept dataset.zip", "sightline collect export kept/best-1f3a6c90 dataset")

app = typer.Typer(no_args_is_help=True, help="Use the images that the service has kept for training.", epilog=_EXAMPLES)


@app.command("export", epilog=_EXAMPLES)
def export_dataset(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The folder of collect.folder, or one of the datasets in it."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A new folder, or a new file whose name ends in .zip.")
    ],
) -> None:
    """Write a dataset with which Ultralytics can train, as a folder or a zip file.

    A tenth of the images is for validation. The confidence is left out of the labels. The service may keep running.
    """
    from serve_app.collection.export import ExportFailed, export

    try:
        exported = export(source, target)
    except ExportFailed as exc:
        raise CommandFailed(str(exc)) from exc
    except OSError as exc:
        raise CommandFailed(f"{exc.filename or target}: {exc.strerror}: check its permissions and the disk") from exc
    print(f"{target}: {exported.train} for training, {exported.val} for validation")

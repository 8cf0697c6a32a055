"""The command ``sightline models`` and its subcommands.

Without a subcommand, it lists the models of the running server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.examples import examples
from serve_app.cli.output import print_json
from serve_app.cli.server import AsJson, Url, connect
from serve_app.schemas.models import ModelStatus

app = typer.Typer(
    invoke_without_command=True,
    epilog=examples("sightline models", "sightline models --json", "sightline models fetch yolo26n.pt"),
)


@app.callback()
def list_models(context: typer.Context, as_json: AsJson = False, url: Url = None) -> None:
    """List the models of the running server."""
    if context.invoked_subcommand is not None:
        return
    with connect(url) as client:
        models = client.models()
    if as_json:
        print_json(models)
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    columns = "name", "state", "model", "version", "engine", "precision", "input (width x height)", "labels"
    table = Table(*columns, box=SIMPLE, padding=0)
    for model in models:
        state = model.state + (f": the last change was refused: {model.refused_change}" if model.refused_change else "")
        values = (
            model.model,
            model.version,
            model.engine,
            model.precision,
            _inputs(model),
            str(len(model.labels or [])),
        )
        table.add_row(model.name, state, *(value or "" for value in values))
    Console().print(table)


def _inputs(model: ModelStatus) -> str:
    """Return the sizes of a model's inputs as text, the largest first."""
    if model.input_shapes is None:  # the model is asleep, or the server is older than this client
        return f"{model.input_width_px}x{model.input_height_px}" if model.input_width_px else ""
    return ", ".join(f"{size.width}x{size.height}" for size in reversed(model.input_shapes))


@app.command("fetch", epilog=examples("sightline models fetch yolo26n.pt", "sightline models fetch yolo26n.pt --to ."))
def fetch_model(
    name: Annotated[str, typer.Argument(help="The file name of the model, such as yolo26n.pt.", metavar="NAME")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Save the model here.  [default: in model.cache_dir]")
    ] = None,
) -> None:
    """Fetch a model that Ultralytics publishes, and print its path."""
    from serve_app.cli.fetch import fetch

    print(fetch(name, to))

"""The command ``sightline``. Other modules of this package define its subcommands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from serve_app.cli import collect, drift, jobs, keys, models, streams
from serve_app.cli.deploy import deploy
from serve_app.cli.detect import detect
from serve_app.cli.doctor import doctor
from serve_app.cli.errors import CommandFailed
from serve_app.cli.examples import examples
from serve_app.cli.output import print_any_text
from serve_app.cli.serve import serve
from serve_app.errors import StartError

app = typer.Typer(
    help="Serve YOLO detection for images and live video.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text reads well in logs and in every terminal, and is printed faster
    pretty_exceptions_enable=False,
    epilog=examples(
        "sightline serve --weights best.pt",
        "sightline detect dock.jpg --save found",
        "sightline streams start --id lot --source rtsp://camera/1",
        "sightline jobs submit photos --watch",
        "sightline doctor",
    ),
)
app.command(epilog=examples("sightline serve", "sightline serve --weights best.pt", "sightline serve gpu --port 8001"))(
    serve
)
app.command(
    epilog=examples(
        "sightline detect dock.jpg",
        "sightline detect dock.jpg --confidence 0.3 --classes person,car",
        "sightline detect *.jpg --save found",
        "sightline detect dock.jpg --json",
    )
)(detect)
app.add_typer(streams.app, name="streams")
app.add_typer(jobs.app, name="jobs")
app.command(
    short_help="Apply a changed config without downtime.",  # Click would cut the first sentence of the docstring
    epilog=examples("sightline deploy local", "sightline deploy my.yaml"),
)(deploy)
app.add_typer(models.app, name="models")
app.add_typer(drift.app, name="drift")
app.add_typer(keys.app, name="keys")
app.add_typer(collect.app, name="collect")
app.command(
    short_help="Say what this machine has and lacks.",
    epilog=examples("sightline doctor", "sightline doctor gpu --json"),
)(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. If it fails, print one sentence and exit with status 1. A wrong command line gives status 2."""
    print_any_text()
    try:
        app(arguments, prog_name="sightline")
    except (CommandFailed, StartError) as exc:
        sys.exit(str(exc))

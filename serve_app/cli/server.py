"""The connection of a command to the running server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.errors import CommandFailed

if TYPE_CHECKING:
    from serve_app.client import Client

# There is no option for the key, because all users of the machine can see a process's arguments.
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server's URL. Set SIGHTLINE_KEY to your API key.  [default: SIGHTLINE_URL, or http://127.0.0.1:8000]",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def connect(url: str | None) -> Iterator[Client]:
    """Yield a client of the server. Raise CommandFailed if the server refuses a request or does not respond."""
    import httpx  # imported late, because these packages would slow down every help text

    from serve_app.client import ApiError, Client, ConnectionFailed

    try:
        client = Client(url)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    try:
        with client:
            yield client
    except ApiError as exc:
        if exc.code != "unauthorized":
            raise CommandFailed(str(exc)) from exc
        if os.environ.get("SIGHTLINE_KEY"):
            raise CommandFailed(
                f"{client.url} does not know the API key in SIGHTLINE_KEY, or the key has expired: set another key"
            ) from exc
        raise CommandFailed(
            f"{client.url} needs an API key: set SIGHTLINE_KEY to your key, as in SIGHTLINE_KEY=sl_… sightline models"
        ) from exc
    except ConnectionFailed as exc:
        if not isinstance(exc.__cause__, (httpx.ConnectError, httpx.ConnectTimeout)):
            raise CommandFailed(str(exc)) from exc
        raise CommandFailed(
            f"no server responds at {client.url}: start one with `sightline serve`, or set another URL with --url"
        ) from exc

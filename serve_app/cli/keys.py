"""The command ``sightline keys new``, which creates an API key."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from serve_app.cli.examples import examples

_EXAMPLES = examples("KEY=$(sightline keys new dock detect streams 2>> keys.yaml)")

app = typer.Typer(no_args_is_help=True, help="Create API keys.", epilog=_EXAMPLES)


@app.command(epilog=_EXAMPLES)
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The client's name: at most 64 letters, digits, - . and _.")
    ],
    permissions: Annotated[
        list[str], typer.Argument(metavar="PERMISSION", help="detect, streams or admin.", show_default=False)
    ],
) -> None:
    """Create a key: print it to stdout, and its entry for the API-key file to stderr.

    The key is not stored anywhere. The entry has only its hash.
    """
    from typing import get_args

    import yaml
    from pydantic import ValidationError

    from serve_app.api.access.keys import Permission, make_key

    known = get_args(Permission)
    if unknown := [permission for permission in permissions if permission not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)} is not a permission: use {', '.join(known)}")
    try:
        key, entry = make_key(name, permissions)
    except ValidationError as exc:
        raise typer.BadParameter(f"{name!r} is not a name: use at most 64 letters, digits, - . and _") from exc
    print(yaml.safe_dump([entry], sort_keys=False), end="", file=sys.stderr)
    print(key)

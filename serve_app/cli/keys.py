"""The command ``sightline keys new``, which creates an API key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.examples import examples

_EXAMPLES = examples(
    "sightline keys new dock detect --file keys.yaml", "KEY=$(sightline keys new dock detect streams --file keys.yaml)"
)

app = typer.Typer(no_args_is_help=True, help="Create API keys.", epilog=_EXAMPLES)


@app.command(epilog=_EXAMPLES)
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The client's name: at most 64 letters, digits, - . and _.")
    ],
    permissions: Annotated[
        list[str], typer.Argument(metavar="PERMISSION", help="detect, streams, jobs or admin.", show_default=False)
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Add the key's entry to this API-key file. A new file can be read only by you.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Create a key, and print it.

    The key is not stored anywhere, because its entry in the API-key file has only its hash. Without --file, the entry
    is printed to stderr.
    """
    from typing import get_args

    import yaml
    from pydantic import ValidationError

    from serve_app.api.access.keys import Permission, make_key
    from serve_app.cli.key_file import add_entry

    known = get_args(Permission)
    if unknown := [permission for permission in permissions if permission not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)} is not a permission: use {', '.join(known)}")
    try:
        key, entry = make_key(name, permissions)
    except ValidationError as exc:
        raise typer.BadParameter(f"{name!r} is not a name: use at most 64 letters, digits, - . and _") from exc
    if file is None:
        print(yaml.safe_dump([entry], sort_keys=False), end="", file=sys.stderr)
    else:
        add_entry(file, entry)
    print(key)

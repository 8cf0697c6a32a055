"""The command that creates API keys: ``python -m serve_app.cli.keys new NAME PERMISSION…``."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

import yaml
from pydantic import ValidationError

from serve_app.api.access.keys import Permission, make_key


def main() -> None:
    """Print a new key to stdout and its entry for the API-key file to stderr. The key is not stored anywhere."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.cli.keys")
    new = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "new", help="create a key: print it to stdout, and its entry for the API-key file to stderr (2>> keys.yaml)"
    )
    new.add_argument("name", help="the client's name: at most 64 letters, digits, - . and _")
    permissions = get_args(Permission)
    new.add_argument("scopes", nargs="+", choices=permissions, metavar="PERMISSION", help=", ".join(permissions))
    options = parser.parse_args()
    try:
        key, entry = make_key(options.name, options.scopes)
    except ValidationError:
        parser.error(f"name: {options.name!r} is not valid: use at most 64 letters, digits, - . and _")
    print(yaml.safe_dump([entry], sort_keys=False), end="", file=sys.stderr)
    print(key)


if __name__ == "__main__":
    main()

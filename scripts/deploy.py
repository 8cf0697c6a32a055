#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Apply a changed Serve config to the running application. This is ``sightline deploy``."""

import sys

try:
    from serve_app.cli.command import main
except ModuleNotFoundError as exc:
    sys.exit(f"{exc}: run this with .venv/bin/python, which scripts/env creates")

if __name__ == "__main__":
    main(["deploy", *sys.argv[1:]])

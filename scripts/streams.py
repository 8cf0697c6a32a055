#!/usr/bin/env -S sh -c 'exec "$(dirname "$0")/../.venv/bin/python" -X utf8 "$0" "$@"'
"""Start, watch and stop streams on a running Sightline server. See scripts/streams.py --help."""

import sys

try:
    from serve_app.cli.streams import main
except ModuleNotFoundError as exc:
    sys.exit(f"{exc}: run this with .venv/bin/python, which scripts/env creates")

if __name__ == "__main__":
    main()

"""``python -m serve_app [CONFIG]``: the command ``sightline serve``."""

import sys

from serve_app.cli.command import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])

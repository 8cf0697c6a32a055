"""``python -m serve_app.cli``: the command ``sightline``."""

from serve_app.cli.command import main

if __name__ == "__main__":
    main()

"""``python -m serve_app CONFIG [--port N]``: see ``serve_app.cli.serve``."""

from serve_app.cli.serve import main

if __name__ == "__main__":
    main()

"""``python -m serve_app CONFIG [--port N]``: see ``serve_app.cli.serve``."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.utf8_mode and os.environ.get("PYTHONUTF8") != "1":
        # Ray, its processes and ours write and read files in the locale's encoding, and end over what it lacks.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    from serve_app.cli.serve import main

    main()

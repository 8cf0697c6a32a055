"""``python -m serve_app CONFIG [--port N]``: see ``serve_app.cli.serve``."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.utf8_mode and os.environ.get("PYTHONUTF8") != "1":
        # Without UTF-8 mode, Ray's processes and ours would read and write files in the locale's encoding, and crash at
        # a character that this encoding lacks.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    from serve_app.cli.serve import main

    main()

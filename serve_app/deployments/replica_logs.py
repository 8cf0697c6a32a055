"""Where this project's log records go in a replica."""

from __future__ import annotations

import logging


def log_as_serve() -> None:
    """Have our loggers write where Ray Serve's logger writes: into the replica's log, in its format.

    Serve gives handlers to its own logger, ``ray.serve``, alone. Ours becomes a child of it, so that a changed
    ``logging_config`` counts for our records, too. To be called once in each process that Ray starts.
    """
    logging.getLogger("serve_app").parent = logging.getLogger("ray.serve")

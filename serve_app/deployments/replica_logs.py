"""The destination of this project's log records in a replica."""

from __future__ import annotations

import logging


def log_as_serve() -> None:
    """Make our loggers write to the replica's log, in the format of Ray Serve's logger.

    Serve adds handlers only to its own logger, ``ray.serve``. Our logger becomes a child of it, so ``logging_config``
    applies to our records too. Call this once in each process that Ray starts.
    """
    logging.getLogger("serve_app").parent = logging.getLogger("ray.serve")

"""Logging in Ray's processes."""

from __future__ import annotations

import logging


def log_as_serve() -> None:
    """Make our loggers write to the replica's log file, in Serve's format.

    Serve adds handlers only to its own logger, ``ray.serve``. This function makes our logger a child of that
    logger, so Serve's ``logging_config`` applies to our records too. Call this function once in each process
    that Ray starts.
    """
    logging.getLogger("serve_app").parent = logging.getLogger("ray.serve")

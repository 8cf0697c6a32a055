"""The command-line options that several benchmarks share."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path


def benchmark_parser(doc: str | None, interval_ms: float) -> ArgumentParser:
    """Return a parser with options for the model, the engine, and the duration of a measurement.

    ``doc`` is the text that ``--help`` prints. ``interval_ms`` is the default duration.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "-m", "--model", default="codes", help="value of the setting model.weights (default: %(default)s)"
    )
    parser.add_argument("--engine", default="auto", help="value of the setting model.engine (default: %(default)s)")
    parser.add_argument(
        "--measurement-interval",
        type=float,
        default=interval_ms,
        metavar="MS",
        help="duration of each measurement in milliseconds (default: %(default)s)",
    )
    return parser


def image_benchmark_parser(doc: str | None, interval_ms: float) -> ArgumentParser:
    """Return the parser of ``benchmark_parser``, with an additional option for the folder of images to send."""
    parser = benchmark_parser(doc, interval_ms)
    parser.add_argument(
        "--input-data",
        type=Path,
        metavar="FOLDER",
        help="folder of JPEGs to send (default: photographs from installed packages)",
    )
    return parser

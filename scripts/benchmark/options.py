"""The command-line options that several benchmarks share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, get_args

from scripts.benchmark import pictures
from serve_app.types import Precision


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
        "--precision",
        default="auto",
        choices=get_args(Precision),
        help="value of the setting model.precision (default: %(default)s)",
    )
    parser.add_argument(
        "--measurement-interval",
        type=float,
        default=interval_ms,
        metavar="MS",
        help="duration of each measurement in milliseconds (default: %(default)s)",
    )
    return parser


def image_benchmark_parser(doc: str | None, interval_ms: float) -> ArgumentParser:
    """Return the parser of ``benchmark_parser``, with additional options for the images to send."""
    parser = benchmark_parser(doc, interval_ms)
    parser.add_argument(
        "--input-data",
        type=Path,
        metavar="FOLDER",
        help="folder of JPEGs to send (default: photographs from installed packages, or drawn scenes)",
    )
    parser.add_argument(
        "--pictures",
        default=pictures.MIXED,
        choices=pictures.SETS,
        help="shape of the images: as they are, cropped to a ratio, or put together to 12 megapixels "
        "(default: %(default)s)",
    )
    return parser


def model_section(options: Namespace) -> dict[str, Any]:
    """Return the config's ``model:`` section that the options describe."""
    path = Path(options.model)
    weights = str(path.resolve()) if path.exists() else options.model  # otherwise, it is a model's name
    return {"weights": weights, "engine": options.engine, "precision": options.precision}

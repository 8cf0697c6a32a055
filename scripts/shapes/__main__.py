"""Train a tiny model for each task on generated scenes of coloured shapes. The tests know the right answers.

python -m scripts.shapes            train all models, and write them to tests/weights/ (10 minutes of CPU time)
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[2] / "tests/weights"


def main() -> None:
    """Parse the command line, train the models, and save them."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.shapes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="folder for the models (default: tests/weights)")
    options = parser.parse_args()

    from scripts.shapes.training import CHAINS, make  # imported here, because --help must not load torch

    options.folder.mkdir(parents=True, exist_ok=True)
    # Processes are spawned, because forking a process that has loaded PyTorch is not safe.
    with ProcessPoolExecutor(len(CHAINS), multiprocessing.get_context("spawn")) as pool:
        for made in as_completed(pool.submit(make, chain, options.folder, options.seed) for chain in CHAINS):
            print(made.result())


if __name__ == "__main__":
    main()

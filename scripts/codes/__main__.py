"""The embedded model ``codes``: make its pictures, train it, write it into the package, judge it.

python -m scripts.codes train       two hours on two cores, 1 GB on disk; writes serve_app/models/embedded/
python -m scripts.codes evaluate    the README's table and contact sheet, on pictures that it has not seen
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.codes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build/codes", help="for pictures and checkpoints")
    parser.add_argument("--seed", type=int, default=3)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train_parser = commands.add_parser("train")
    train_parser.add_argument("--epochs", type=int, default=12)
    train_parser.add_argument("--device", default="cpu", help="cpu, or a GPU's number")
    train_parser.set_defaults(run=train)
    evaluate_parser = commands.add_parser("evaluate")
    evaluate_parser.add_argument("photographs", type=Path, nargs="*", help="JPEGs without codes, or folders of them")
    evaluate_parser.set_defaults(run=evaluate)
    options = parser.parse_args()
    options.run(options)


def train(options: argparse.Namespace) -> None:
    """Pictures, training, and the package's files."""
    from scripts.codes import dataset, export, training  # late: --help needs no torch

    splits = (dataset.TRAIN, dataset.VALIDATION)
    data = dataset.write_dataset(options.folder, splits, options.seed, training.SIZE_PX)
    checkpoint = training.train(data, options.folder, epochs=options.epochs, seed=options.seed, device=options.device)
    export.write_weights(checkpoint, ROOT / "serve_app/models/embedded")


def evaluate(options: argparse.Namespace) -> None:
    """The report on the screen, the contact sheet beside this file."""
    from scripts.codes import dataset, evaluation
    from scripts.codes.surfaces import package_files

    photographs = package_files("ultralytics/assets")
    for place in options.photographs:
        photographs += sorted(place.glob("*.jpg")) if place.is_dir() else [place]
    sheet = Path(__file__).with_name("contact_sheet.jpg")
    report = evaluation.evaluate(options.seed, photographs, pictures=dataset.TEST.pictures, contact_sheet=sheet)
    print(report.as_markdown())
    for path, guesses in report.photographs.items():
        for guess in guesses:
            print(f"{path.name}: {guess}")


if __name__ == "__main__":
    main()

"""Train the embedded model ``codes`` on generated images, or evaluate it.

python -m scripts.codes train       train, and write serve_app/models/embedded/ (2 hours on 2 cores, 1 GB of disk)
python -m scripts.codes evaluate    print the accuracy on unseen images, and save the contact sheet
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Parse the command line, and run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.codes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build/codes",
        help="folder for images and checkpoints (default: build/codes)",
    )
    parser.add_argument(
        "--seed", type=int, default=3, help="random seed of the generated images (default: %(default)s)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train_parser = commands.add_parser("train", help="generate images and train the model")
    train_parser.add_argument("--epochs", type=int, default=12, help="epochs of training (default: %(default)s)")
    train_parser.add_argument("--device", default="cpu", help="'cpu' or the index of a GPU (default: cpu)")
    train_parser.set_defaults(run=train)
    evaluate_parser = commands.add_parser("evaluate", help="evaluate the embedded model")
    evaluate_parser.add_argument(
        "photographs", type=Path, nargs="*", help="JPEGs without codes, or folders of such JPEGs"
    )
    evaluate_parser.set_defaults(run=evaluate)
    options = parser.parse_args()
    options.run(options)


def train(options: argparse.Namespace) -> None:
    """Generate the images, train the model, and write its weights into the package."""
    from scripts.codes import dataset, export, training  # imported here, because --help must not load torch

    splits = (dataset.TRAIN, dataset.VALIDATION)
    data = dataset.write_dataset(options.folder, splits, options.seed, training.SIZE_PX)
    checkpoint = training.train(data, options.folder, epochs=options.epochs, seed=options.seed, device=options.device)
    export.write_weights(checkpoint, ROOT / "serve_app/models/embedded")


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate the model, print the report, and save the contact sheet beside this file."""
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

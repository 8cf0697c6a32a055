"""Cases of images: generators of every format and variant, and a comparison with a second decoder."""

from scripts.trials.field.pictures.cases import CASES

__all__ = ["CASES"]

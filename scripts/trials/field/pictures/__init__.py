"""Cases of images: generators of every format and variant, and a comparison with Pillow's decoders."""

from scripts.trials.field.pictures.cases import CASES

__all__ = ["CASES"]

"""Pictures from the field: generators of every format and variant, a second decoder, and the cases."""

from scripts.trials.field.pictures.cases import CASES

__all__ = ["CASES"]

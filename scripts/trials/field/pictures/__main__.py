"""Generate images of many formats and variants, damage some, and compare our decoder with Pillow.

``python -m scripts.trials.field.pictures --count 2000 --seed 0``
"""

from __future__ import annotations

import argparse
from collections import Counter

from scripts.trials.field.pictures.comparison import (
    DIFFERENT,
    FAMILIES,
    ONLY_OURS,
    ONLY_OURS_WITH_LOSSES,
    PILLOW_WRONG,
    RESULTS,
    samples,
    verdict,
)  # fmt: skip


def main() -> int:
    """Print a table and every difference, and return 1 if there is a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many files to generate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the generator (default: %(default)s)")
    parser.add_argument(
        "--damage", type=float, default=0.3, help="the fraction of files to damage (default: %(default)s)"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="also print the files that Pillow cannot read or reads wrongly"
    )
    args = parser.parse_args()
    counts: Counter[tuple[str, bool, str]] = Counter()
    shown = {DIFFERENT, ONLY_OURS_WITH_LOSSES, ONLY_OURS, PILLOW_WRONG} if args.verbose else {DIFFERENT}
    for number, (family, is_damaged, sample) in enumerate(samples(args.seed, args.count, args.damage)):
        found = verdict(family, is_damaged, sample)
        counts[family, is_damaged, found.result] += 1
        if found.result in shown:
            print(f"{number}: {found.result}: {sample.name}{', damaged' * is_damaged}: {found.remark}")
    print(
        "| format | " + " | ".join(f"{state}, {result}" for state in ("intact", "damaged") for result in RESULTS) + " |"
    )
    print("|---" * (1 + 2 * len(RESULTS)) + "|")
    for family in FAMILIES:
        row = (str(counts[family, is_damaged, result]) for is_damaged in (False, True) for result in RESULTS)
        print(f"| {family} | {' | '.join(row)} |")
    return 1 if any(result == DIFFERENT for _, _, result in counts.elements()) else 0


if __name__ == "__main__":
    raise SystemExit(main())

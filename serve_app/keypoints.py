"""The keypoints of people in COCO's order, which pose models have unless they were trained with others.

The order and the limbs are those of ``person_keypoints_val2017.json`` of https://cocodataset.org, but count from 0.
"""

from __future__ import annotations

from typing import Final

COCO_COUNT: Final = 17
ANKLES: Final = (15, 16)
VISIBLE_ABOVE: Final = 0.5  # a keypoint with a higher confidence counts as visible

HEAD: Final = ((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
ARMS: Final = ((5, 7), (6, 8), (7, 9), (8, 10))
TRUNK: Final = ((11, 12), (5, 11), (6, 12), (5, 6))
LEGS: Final = ((15, 13), (13, 11), (16, 14), (14, 12))
LIMBS: Final = (*LEGS, *TRUNK, *ARMS, *HEAD)

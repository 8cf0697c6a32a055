"""Draw text, lattices, stripes, signs and other images that a model could mistake for a code."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.codes.surfaces import Look, Picture, Rng, colour_pair, photograph_part, railing, slats, words, write


def distractor(rng: Rng, look: Look, width: int, height: int) -> Picture:
    """Return a random image that looks like a code but is not one."""
    kind = rng.random()
    if kind < 0.2:
        return _paragraph(rng, look, width, height)
    if kind < 0.45:
        return photograph_part(rng, look, width, height)
    return _DISTRACTORS[rng.integers(len(_DISTRACTORS))](rng, width, height)


def _paragraph(rng: Rng, look: Look, width: int, height: int) -> Picture:
    """Draw lines of printed text."""
    paper, ink = colour_pair(rng)
    picture = np.full((height, width, 3), paper, np.uint8)
    size_px = int(rng.uniform(0.06, 0.3) * min(width, height)) + 5
    for y in range(int(size_px * 0.3), height - size_px, int(size_px * rng.uniform(1.1, 1.6)) + 1):
        text = words(rng, width // max(size_px // 2, 1))
        write(picture, text, (size_px // 2, y), size_px, ink, str(rng.choice(look.fonts)))
    return picture


def _lattice(rng: Rng, width: int, height: int) -> Picture:
    """Draw a grid of lines, like tiles, graph paper or a fence."""
    light, dark = colour_pair(rng)
    picture = np.full((height, width, 3), light, np.uint8)
    step, thick = int(rng.integers(5, 40)), int(rng.integers(1, 5))
    for x in range(0, width, step):
        picture[:, x : x + thick] = dark
    for y in range(0, height, int(step * rng.uniform(0.6, 1.6)) + 1):
        picture[y : y + thick] = dark
    return picture


def _stripes(rng: Rng, width: int, height: int) -> Picture:
    """Draw stripes of equal width, like blinds or a radiator. The bars of a barcode have different widths."""
    light, dark = colour_pair(rng)
    period, duty = rng.uniform(4, 40), rng.uniform(0.3, 0.7)
    dark_here = (np.arange(width) / period) % 1 < duty
    return np.broadcast_to(np.where(dark_here[None, :, None], dark, light), (height, width, 3)).astype(np.uint8)


def _spines(rng: Rng, width: int, height: int) -> Picture:
    """Draw uneven bars in many colours, like a bookshelf or folds of cloth. Barcodes have only two colours."""
    picture = np.empty((height, width, 3), np.uint8)
    light, dark = (colour.astype(np.float32) for colour in colour_pair(rng))
    mean_px = rng.uniform(2, 20)
    x = 0
    while x < width:
        share = rng.random()
        colour = share * light + (1 - share) * dark + rng.uniform(-40, 40, 3) * (rng.random() < 0.5)
        bar = int(1 + rng.exponential(mean_px))
        picture[:, x : x + bar] = np.clip(colour, 0, 255)
        x += bar
    return picture


def _chequered(rng: Rng, width: int, height: int) -> Picture:
    """Draw a chequered pattern, like cloth, a chess board or gingham."""
    light, dark = colour_pair(rng)
    step = rng.uniform(4, 40)
    across, down = (np.arange(width) / step).astype(int) % 2, (np.arange(height) / step).astype(int) % 2
    if rng.random() < 0.5:
        share = ((across[None] + down[:, None]) / 2)[..., None]  # crossing threads, as in gingham
    else:
        share = (across[None] ^ down[:, None])[..., None]
    cloth: Picture = (light * (1 - share) + dark * share).astype(np.uint8)
    return cloth


def _panes(rng: Rng, width: int, height: int) -> Picture:
    """Draw rows of rectangles, like the windows of a facade, a keyboard or shelves."""
    wall, pane = colour_pair(rng)
    if rng.random() < 0.5:
        wall, pane = pane, wall
    picture = np.full((height, width, 3), wall, np.uint8)
    columns, rows = int(rng.integers(3, 16)), int(rng.integers(2, 12))
    gap = rng.uniform(0.1, 0.45)
    for row in range(rows):
        shift = rng.uniform(0, 0.5) if rng.random() < 0.3 else 0
        for column in range(columns):
            x, y = (column + gap / 2 + shift) * width / columns, (row + gap / 2) * height / rows
            corner = int(x + (1 - gap) * width / columns), int(y + (1 - gap) * height / rows)
            shade = tuple(int(value) for value in np.clip(pane * rng.uniform(0.6, 1.4), 0, 255))
            cv2.rectangle(picture, (int(x), int(y)), corner, shade, -1)
            if rng.random() < 0.4:  # like a letter on a key, or a lamp in a window
                cv2.circle(picture, (int(x) + 4, int(y) + 4), 2, tuple(int(value) for value in wall), -1)
    return picture


def _crossword(rng: Rng, width: int, height: int) -> Picture:
    """Draw a grid with filled squares, like a crossword or a mosaic. Unlike codes, it has no finder pattern."""
    light, dark = colour_pair(rng)
    cells = int(rng.integers(5, 16))
    filled = rng.random((cells, cells)) < rng.uniform(0.15, 0.4)
    filled[:, 0] = filled[-1] = False  # in a Data Matrix, the left column and the bottom row are dark
    picture = np.where(filled[..., None], dark, light).astype(np.uint8)
    board: Picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
    for line in range(cells + 1):
        at = int(line * width / cells), int(line * height / cells)
        board[:, at[0] : at[0] + 1] = dark
        board[at[1] : at[1] + 1] = dark
    return board


def _ruler(rng: Rng, width: int, height: int) -> Picture:
    """Draw ticks, like a ruler, a comb or piano keys."""
    light, dark = colour_pair(rng)
    picture = np.full((height, width, 3), light, np.uint8)
    step = max(int(rng.uniform(0.01, 0.06) * width), 3)
    for number, x in enumerate(range(0, width, step)):
        length = height if number % 10 == 0 else int(height * (0.6 if number % 5 == 0 else 0.4))
        picture[:length, x : x + max(step // 3, 1)] = dark
    return picture


def _rings(rng: Rng, width: int, height: int) -> Picture:
    """Draw nested squares or circles, like a target, a speaker or a lone finder pattern."""
    light, dark = colour_pair(rng)
    picture = np.full((height, width, 3), light, np.uint8)
    count = int(rng.integers(1, 5))
    for ring in range(count * 2):
        inset = ring / (count * 2) * 0.45 + 0.04
        low, high = (int(inset * width), int(inset * height)), (int((1 - inset) * width), int((1 - inset) * height))
        colour = tuple(int(value) for value in (dark if ring % 2 == 0 else light))
        if count % 2:
            cv2.rectangle(picture, low, high, colour, -1)
        else:
            cv2.ellipse(
                picture, (width // 2, height // 2), (width // 2 - low[0], height // 2 - low[1]), 0, 0, 360, colour, -1
            )
    return picture


def _plaque(rng: Rng, width: int, height: int) -> Picture:
    """Draw a simple sign on a dark area, like a button, an icon or a domino."""
    light, dark = colour_pair(rng)
    picture = np.full((height, width, 3), dark, np.uint8)
    points = (rng.uniform(0.2, 0.8, (int(rng.integers(3, 6)), 2)) * (width, height)).astype(np.int32)
    colour = tuple(int(value) for value in light)
    if rng.random() < 0.5:
        cv2.fillPoly(picture, [cv2.convexHull(points)], colour, cv2.LINE_AA)
    else:
        for x, y in points:
            cv2.circle(picture, (int(x), int(y)), max(width // 12, 2), colour, -1, cv2.LINE_AA)
    return picture


_DISTRACTORS = (
    _lattice, _stripes, slats, railing, _spines, _chequered, _panes, _crossword, _ruler, _rings, _plaque
)  # fmt: skip

"""Generate machine-readable codes for a payload, with libraries that are also used to print real codes."""

from __future__ import annotations

import string
from dataclasses import dataclass

import barcode
import cv2
import numpy as np
import segno
from numpy.typing import NDArray
from ppf.datamatrix import DataMatrix

LABELS = ("qr_code", "data_matrix", "barcode", "marker")  # the model's classes, in order

_MARKERS = {
    name: cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{name}"))
    for name in ("4X4_250", "5X5_250", "6X6_250", "7X7_250", "ARUCO_ORIGINAL", "APRILTAG_16h5", "APRILTAG_36h11")
}
_BARCODES = {  # symbology: (allowed characters, (minimum length, maximum length))
    "code128": (string.ascii_uppercase + string.digits + "-/", (4, 20)),
    "code39": (string.ascii_uppercase + string.digits, (4, 12)),
    "itf": (string.digits, (8, 14)),
    "ean13": (string.digits, (12, 12)),
    "ean8": (string.digits, (7, 7)),
    "upca": (string.digits, (11, 11)),
}
_TEXT = string.ascii_letters + string.digits + " -./:"


@dataclass(frozen=True)
class Symbol:
    """One code. ``modules`` has a 1 for each dark cell of the code and a 0 for each light cell.

    The quiet zone is not included. A barcode has one row.
    """

    label: str
    payload: str
    modules: NDArray[np.uint8]
    quiet_zone: int  # width, in cells, of the light border that the standard requires


def qr_code(payload: str, error: str = "m") -> Symbol:
    """Make the smallest QR code (ISO/IEC 18004) for a payload. ``error`` is the error correction level l, m, q or h."""
    code = segno.make_qr(payload, error=error, boost_error=False)
    return Symbol("qr_code", payload, np.array([list(row) for row in code.matrix], np.uint8), 4)


def data_matrix(payload: str, *, rectangular: bool = False) -> Symbol:
    """Make an ECC 200 Data Matrix (ISO/IEC 16022)."""
    code = DataMatrix(payload, rect=rectangular)
    return Symbol("data_matrix", payload, np.array(code.matrix, np.uint8), 1)


def linear_barcode(payload: str, symbology: str = "code128") -> Symbol:
    """Make a 1-D barcode. ``symbology`` is a barcode type of python-barcode. Some types append a check digit."""
    code = barcode.get(symbology, payload)
    row = [bar == "1" for bar in code.build()[0].strip("0")]
    return Symbol("barcode", code.get_fullcode(), np.array([row], np.uint8), 10)


def marker(number: int, family: str = "APRILTAG_36h11") -> Symbol:
    """Make an ArUco or AprilTag marker with its black border.

    ``family`` is the name of an OpenCV dictionary without the prefix ``DICT_``.
    """
    dictionary = _MARKERS[family]
    number %= len(dictionary.bytesList)
    cells = cv2.aruco.generateImageMarker(dictionary, number, dictionary.markerSize + 2)
    return Symbol("marker", str(number), (cells == 0).astype(np.uint8), 1)


def random_symbol(rng: np.random.Generator) -> Symbol:
    """Make a random code with a random payload.

    QR codes and Data Matrices are more frequent, because a model easily confuses them with each other.
    """
    label = str(rng.choice(LABELS, p=(0.3, 0.3, 0.2, 0.2)))
    if label == "qr_code":
        return qr_code(_random_text(rng, _TEXT, 4, 90), str(rng.choice(list("lmqh"))))
    if label == "data_matrix":
        payload = _random_text(rng, _TEXT, 2, 40)
        return data_matrix(payload, rectangular=len(payload) < 20 and rng.random() < 0.15)
    if label == "barcode":
        symbology = str(rng.choice(list(_BARCODES)))
        alphabet, (shortest, longest) = _BARCODES[symbology]
        return linear_barcode(_random_text(rng, alphabet, shortest, longest), symbology)
    return marker(int(rng.integers(1000)), str(rng.choice(list(_MARKERS))))


def _random_text(rng: np.random.Generator, alphabet: str, shortest: int, longest: int) -> str:
    length = rng.integers(shortest, longest + 1)
    return "".join(rng.choice(list(alphabet), length))

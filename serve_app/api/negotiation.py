"""Content negotiation: whether ``Accept`` prefers JSON or the annotated image (RFC 9110, 12.5.1)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_JPEG = {"image/jpeg", "image/jpg", "image/pjpeg"}  # the last two are common misspellings
_QUOTED = r'"(?:\\.|[^"\\])*"?'  # a quoted string (RFC 9110, 5.6.4); its last quote may be missing
_EVERYTHING = {"*/*", "*"}  # Java's HttpURLConnection sends `*`


def prefers_jpeg(accept: Sequence[str]) -> bool:
    """Return whether these ``Accept`` headers prefer a JPEG to JSON. JSON is the default if the headers prefer neither.

    Two rules apply in addition to the weights (the ``q`` values) in the headers. A client that prefers ``text/html``
    gets JSON, because it does not ask for an image in particular. Browsers send such headers when they navigate, and
    Java's HttpURLConnection sends them by default. A client that gives ``*/*`` the same weight as ``image/jpeg`` also
    gets JSON, because it accepts any type equally.
    """
    header = ",".join(accept).lower()
    if "image/" not in header:
        return False  # a shortcut for most requests, whose headers contain no image type
    weights = _weights(header)
    jpeg = max((weights[name] for name in _JPEG & weights.keys()), default=None)
    everything = weights.get("*/*", 0.0)
    if jpeg is None:
        jpeg = weights.get("image/*", everything)
    json = weights.get("application/json", weights.get("application/*", everything))
    is_page = weights.get("text/html", 0.0) == max(weights.values(), default=0.0)
    return jpeg > json and jpeg != everything and not is_page


def prefers_page(accept: Sequence[str]) -> bool:
    """Return whether these ``Accept`` headers prefer a web page to JSON, as those of a browser do when it navigates.

    JSON is the default if the headers prefer neither. Java's HttpURLConnection gives all types nearly the same weight,
    but names ``text/html`` first, so it gets the page.
    """
    weights = _weights(",".join(accept).lower())
    json = weights.get("application/json", weights.get("application/*", weights.get("*/*", 0.0)))
    return weights.get("text/html", 0.0) > json


def _weights(header: str) -> dict[str, float]:
    """Return the weight of each media range (RFC 9110, 12.4.2). A range with an invalid weight is left out."""
    weights: dict[str, float] = {}
    for element in _split(header, ","):
        name, *options = (word.strip() for word in _split(element, ";"))
        pairs = (option.partition("=") for option in options)
        quality = next((value.strip() for key, _, value in pairs if key.strip() == "q"), "1")
        try:
            weight = float(quality)
        except ValueError:
            continue
        if name and math.isfinite(weight):
            name = "*/*" if name in _EVERYTHING else name
            weights[name] = max(weights.get(name, 0.0), min(max(weight, 0.0), 1.0))
    return weights


def _split(text: str, separator: str) -> list[str]:
    """Split text at the separators that are not inside quotes."""
    return re.findall(rf'{separator}((?:[^{separator}"]|{_QUOTED})*)', separator + text)

"""Which of our two representations a request's ``Accept`` prefers: JSON or the annotated picture. RFC 9110, 12.5.1."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_JPEG = {"image/jpeg", "image/jpg", "image/pjpeg"}  # the other two are common mistakes for the first
_QUOTED = r'"(?:\\.|[^"\\])*"?'  # 5.6.4; the last quote may be missing
_EVERYTHING = {"*/*", "*"}  # the second is how Java's HttpURLConnection writes it


def prefers_jpeg(accept: Sequence[str]) -> bool:
    """Return whether these ``Accept`` headers prefer a JPEG to JSON. A header that prefers neither means JSON.

    Two rules go beyond the weights. Clients that would take a web page first, as browsers that navigate and Java's
    HttpURLConnection by default, ask for no picture in particular. And where ``*/*`` has the weight of ``image/jpeg``,
    anything is as good, so it is JSON.
    """
    header = ",".join(accept).lower()
    if "image/" not in header:
        return False  # nearly every request: JSON weighs as much then
    weights = _weights(header)
    jpeg = max((weights[name] for name in _JPEG & weights.keys()), default=None)
    everything = weights.get("*/*", 0.0)
    if jpeg is None:
        jpeg = weights.get("image/*", everything)
    json = weights.get("application/json", weights.get("application/*", everything))
    is_page = weights.get("text/html", 0.0) == max(weights.values(), default=0.0)
    return jpeg > json and jpeg != everything and not is_page


def _weights(header: str) -> dict[str, float]:
    """Return the weight of each media range: 12.4.2. A range whose weight is no number is left out."""
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
    """Return what is between the separators. Those in quotes are none."""
    return re.findall(rf'{separator}((?:[^{separator}"]|{_QUOTED})*)', separator + text)

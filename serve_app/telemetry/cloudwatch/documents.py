"""Build documents in the Embedded Metric Format.

The rules are those of AWS's specification and of CloudWatch's limits for names and values:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Dimension.html
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from serve_app.types import Json

MAX_METRICS = 100  # in one document
_MAX_NAME = 255  # characters of a metric's name; the format itself allows 1024
_MAX_DIMENSION = 1024  # characters of a dimension's value
_PLAIN = " /:#+()&,;=@!*"  # characters that are not escaped, besides letters, digits and -._~
_NAMESPACE = "Sightline"
_DIMENSIONS = ("Model", "Source")
_NO_NAME = "none"  # CloudWatch refuses an empty value of a dimension


@dataclass(frozen=True)
class Counts:
    """What a model has found in the images of one source in one minute of the wall clock."""

    model: str
    source: str
    began_at_s: int  # the beginning of the minute, in seconds since the epoch; a multiple of 60
    images: int
    detections: Mapping[str, int]  # by label
    figures: Mapping[str, float] = field(default_factory=dict)  # the latest figures of drift, by name


def documents(counts: Counts) -> list[str]:
    """Return the documents for one model and one source, each as a line of JSON.

    Several documents are needed for more than 100 metrics. The metrics are ``images``, ``detections_LABEL`` and
    ``drift_FIGURE``.
    """
    values: dict[str, tuple[float, str]] = {"images": (counts.images, "Count")}
    # Two long labels may have the same name after they are cut. Their counts are added, so that none is lost.
    found: Counter[str] = Counter()
    for label, count in counts.detections.items():
        found[_name("detections_", label)] += count
    values |= {name: (count, "Count") for name, count in found.items()}
    values |= {_name("drift_", name): (value, "None") for name, value in counts.figures.items() if math.isfinite(value)}
    items = list(values.items())
    dimensions = dict(zip(_DIMENSIONS, (_dimension(counts.model), _dimension(counts.source)), strict=True))
    return [
        _document(dict(items[start : start + MAX_METRICS]), dimensions, counts.began_at_s)
        for start in range(0, len(items), MAX_METRICS)
    ]


def _document(values: Mapping[str, tuple[float, str]], dimensions: Mapping[str, str], at_s: int) -> str:
    directive = {
        "Namespace": _NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in values.items()],
    }
    root: Json = {"_aws": {"Timestamp": at_s * 1000, "CloudWatchMetrics": [directive]}, **dimensions}
    root |= {name: value for name, (value, _) in values.items()}
    return json.dumps(root, separators=(",", ":"))


def _name(prefix: str, label: str) -> str:
    return (prefix + _ascii(label))[:_MAX_NAME]


def _dimension(value: str) -> str:
    return _ascii(value.strip())[:_MAX_DIMENSION] or _NO_NAME


def _ascii(text: str) -> str:
    """Return the text with %XX for other characters, because CloudWatch accepts only printable ASCII in dimensions."""
    return quote(text, safe=_PLAIN)

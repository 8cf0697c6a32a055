"""Addresses of objects such as ``s3://dock/in/a.jpg``, the prefixes that are allowed, and the stores behind them.

Credentials and endpoints come only from the environment, as obstore reads it (``AWS_…``, ``GOOGLE_…``, ``AZURE_…``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from serve_app.errors import InvalidParameter, SourceError, Unavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_URI = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]*)(?:/(.*))?", re.DOTALL)
_VARIABLES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
_TIMEOUT = timedelta(seconds=60)  # for one request with its body
_CONNECT_TIMEOUT = timedelta(seconds=5)
_RETRIES: Any = {  # short, because the job itself tries again later
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=2), "base": 2},
}
RETRY_AFTER_S = 15


@dataclass(frozen=True)
class ObjectUri:
    """An object, or a prefix of whole path parts."""

    scheme: str
    bucket: str
    key: str  # without a slash at the beginning and the end

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def is_below(self, prefix: ObjectUri) -> bool:
        """Return whether this is ``prefix`` or below it. Only whole parts count: ``incoming`` is not below ``in``."""
        mine, others = _parts(self.key), _parts(prefix.key)
        return (self.scheme, self.bucket) == (prefix.scheme, prefix.bucket) and mine[: len(others)] == others


def parse_object_uri(text: str, field: str = "source.uri") -> ObjectUri:
    """Parse an object's address. Raise SourceError, which names ``field`` and not the address, if it is not valid."""
    found = _URI.fullmatch(text)
    if found is None or not text.isprintable():
        raise SourceError(f"{field} must be s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")
    scheme, bucket, key = found[1], found[2], (found[3] or "").removesuffix("/")
    if "?" in key or "#" in key:
        raise SourceError(f"{field} must not have a query or a fragment; if a key contains ? or #, match it with *")
    if any(part in {"", ".", ".."} for part in _parts(key)):
        raise SourceError(f"{field} has an empty part or a part . or ..; write the key as it is in the bucket")
    return ObjectUri(scheme, bucket, key)


def check_allowed(uri: ObjectUri, prefixes: Iterable[str], field: str = "source.uri") -> None:
    """Raise SourceError unless an object is below one of the prefixes of ``jobs.allowed_uris``."""
    allowed = [parse_object_uri(prefix, "jobs.allowed_uris") for prefix in prefixes]
    if not any(uri.is_below(prefix) for prefix in allowed):
        raise SourceError(
            f"{field} is not below a prefix that the server allows; add its bucket or prefix to "
            "SERVE_APP_JOBS_ALLOWED_URIS"
        )


def open_bucket(uri: ObjectUri) -> ObjectStore:
    """Return the store of a bucket, with the credentials of the environment.

    Raise InvalidParameter if the library is not installed, and SourceError if the environment's settings are not valid.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError as exc:
        raise InvalidParameter(
            "support for buckets is not installed on the server; run there: pip install 'sightline[objects]'"
        ) from exc
    stores: dict[str, type[Any]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    # obstore ignores this variable if other client options are set.
    allow_http = os.environ.get(f"{_VARIABLES[uri.scheme]}_ALLOW_HTTP", "").lower() in {"1", "true"}
    client = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT, "allow_http": allow_http}
    try:
        store: ObjectStore = stores[uri.scheme](uri.bucket, client_options=client, retry_config=_RETRIES)
    except (BaseError, ValueError) as exc:  # its text may contain credentials
        raise SourceError(
            f"{uri.scheme}://{uri.bucket} cannot be opened; check the credentials and the endpoint in the server's "
            "environment"
        ) from exc
    return store


def unavailable(name: str) -> Unavailable:
    """Return the error for a bucket that does not answer now."""
    error = Unavailable(f"{name}: the bucket does not answer, or refuses the server's credentials; it is tried again")
    error.retry_after_s = RETRY_AFTER_S
    return error


def _parts(key: str) -> list[str]:
    return key.split("/") if key else []

"""Every error this package raises on purpose. A class knows its HTTP status and its code.

    ServeAppError                  500 internal
    |- Malformed                   400 malformed           the request is not what HTTP or multipart demands
    |- Unauthorized                401 unauthorized        no API key, or one that is unknown or has expired
    |- Forbidden                   403 forbidden           the key's scopes do not include it
    |- NotFound                    404 not_found
    |- UrlsDisabled                403 urls_disabled       pictures are not fetched by url here
    |- Conflict                    409 conflict
    |- TooLarge                    413 too_large           too many bytes, pixels or pictures
    |- NotAnImage                  415 not_an_image        the bytes are in no picture format that we read
    |- UnsupportedEncoding         415 unsupported_encoding  the body's Content-Encoding is not read here
    |- Undecodable                 422 undecodable         a picture by its first bytes, but broken
    |- Unfetchable                 422 unfetchable         the picture's url leads to no picture
    |- InvalidParameter            422 invalid_parameter
    |  `- InvalidUrl               422 invalid_url         malformed, or not an address that may be reached
    |- PoisonPicture               422 poison              a process died of it, while it worked on nothing else
    |- RateLimited                 429 rate_limited        the key's rate or concurrency limit is exceeded; Retry-After
    |- Overloaded                  503 overloaded          a limit is reached; carries Retry-After
    |- Unavailable                 503 unavailable         a replica died or is not ready; carries Retry-After
    |  |- SlotElsewhere                                    between us: the frame's memory is on another node
    |  |- ReplicaGone                                      between us: no replica is there, or it went away
    |  |  `- ReplicaDied                                   between us: it died, and perhaps of this call
    |  `- ModelChanged                                     between us: the frame was made for another model
    |- DeadlineExceeded            504 deadline_exceeded
    `- StartError                  500 start               what keeps a deployment or a stream from starting
       |- ConfigError                                      a setting is wrong
       |- ModelError                                       the weights cannot be found, read or served
       |- SharedMemoryError                                too little shared memory for the frame pool
       `- SourceError             422 invalid_source      a stream's source is not allowed or is no video
          |- SourceDenied                                  it wants other credentials
          |- SourceUntrusted                               nobody here vouches for its certificate
          |- SourceTooLarge                                its pictures have too many pixels
          `- SourceGone                                    it cannot be reached, or ended; it may come back
             `- SourceStalled                              it can be reached, and sends nothing

An expected refusal crosses a deployment handle as a *returned value*, not as an exception: Ray would wrap an
exception in a RayTaskError whose text is the remote traceback. What is raised across a handle is a bug or a death.
"""

from __future__ import annotations

from typing import Literal

# The names of all limits that a refusal may name. A name with a dot is a setting; the others are fixed. The README's
# table of limits says of each what is refused, and what to do about it.
Limit = Literal[
    "",  # no limit is the reason
    "limits.max_requests",
    "limits.max_body_mib",
    "limits.max_megapixels",
    "limits.max_images_per_request",
    "access.concurrency",
    "access.requests_per_s",
    "preprocessor.slots",
    "batcher.max_queue_size",
    "streams.max_streams",
    "max_queued_requests",  # Ray Serve's setting of a deployment
    "detector_capacity",
    "json_body",
    "followers",
    "supervisor_calls",
    "url_fetches",
    "url_fetches_per_key",
]


class ServeAppError(Exception):
    """Base of the tree. ``detail`` is one sentence for the client: no traceback, no path, no credential. ``limit``
    names the limit that a refusal is for, so that an operator knows which one to raise."""

    status_code = 500
    code = "internal"
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, limit: Limit = "") -> None:
        super().__init__(detail)  # a positional argument goes to the base: pickling passes it to the class again
        self.detail = detail
        self.limit: Limit = limit


class Malformed(ServeAppError):
    """The request is not what HTTP or multipart demands."""

    status_code, code = 400, "malformed"


class Unauthorized(ServeAppError):
    """No API key came with the request, or one that is unknown or has expired."""

    status_code, code = 401, "unauthorized"


class Forbidden(ServeAppError):
    """The key's scopes do not include it. Without keys: the request is not this machine's own."""

    status_code, code = 403, "forbidden"


class UrlsDisabled(ServeAppError):
    """Pictures are not fetched by url here."""

    status_code, code = 403, "urls_disabled"


class NotFound(ServeAppError):
    """No such route, stream or model."""

    status_code, code = 404, "not_found"


class Conflict(ServeAppError):
    """The name is taken."""

    status_code, code = 409, "conflict"


class TooLarge(ServeAppError):
    """Too many bytes, pixels or pictures."""

    status_code, code = 413, "too_large"


class NotAnImage(ServeAppError):
    """The bytes are in no picture format that we read."""

    status_code, code = 415, "not_an_image"


class UnsupportedEncoding(ServeAppError):
    """The body's ``Content-Encoding`` is not one that we undo."""

    status_code, code = 415, "unsupported_encoding"


class Undecodable(ServeAppError):
    """A picture by its first bytes, but truncated or corrupt."""

    status_code, code = 422, "undecodable"


class Unfetchable(ServeAppError):
    """The server that a url names cannot be reached, or does not answer with a file."""

    status_code, code = 422, "unfetchable"


class InvalidParameter(ServeAppError):
    """A parameter is out of range, unknown or of the wrong type."""

    status_code, code = 422, "invalid_parameter"


class InvalidUrl(InvalidParameter):
    """A url is malformed, or its host has no address that the server may connect to."""

    code = "invalid_url"


class PoisonPicture(ServeAppError):
    """A process died while it worked on this picture, and died again when it worked on nothing else."""

    status_code, code = 422, "poison"


class RateLimited(ServeAppError):
    """The key's rate or concurrency limit is exceeded. The request was not begun; the client may retry later."""

    status_code, code, retry_after_s = 429, "rate_limited", 1

    def __init__(self, detail: str, retry_after_s: int = 1, *, limit: Limit = "") -> None:
        super().__init__(detail, limit=limit)
        self.retry_after_s = retry_after_s


class Overloaded(ServeAppError):
    """A limit is reached. The request was not begun; the client may retry."""

    status_code, code, retry_after_s = 503, "overloaded", 1


class Unavailable(ServeAppError):
    """A replica died under the request or none is ready. The request may be sent again."""

    status_code, code, retry_after_s = 503, "unavailable", 1


class SlotElsewhere(Unavailable):
    """The frame's memory is not on this node: send its bytes instead."""


class ReplicaGone(Unavailable):
    """No replica is there, or it went away before it began with the call: ask again."""


class ReplicaDied(ReplicaGone):
    """The replica died while it had the call, and perhaps of it."""


class ModelChanged(Unavailable):
    """The frame was letterboxed for a model that no longer serves: ask which one does."""


class DeadlineExceeded(ServeAppError):
    """The request's time was up before its answer was."""

    status_code, code = 504, "deadline_exceeded"


class StartError(ServeAppError):
    """Something that keeps a deployment or a stream from starting."""

    code = "start"


class ConfigError(StartError):
    """A setting is wrong."""


class ModelError(StartError):
    """The weights cannot be found, read or served."""


class SharedMemoryError(StartError):
    """There is too little shared memory for the frame pool."""


class SourceError(StartError):
    """A stream's source is refused, cannot be opened or is no video."""

    status_code, code = 422, "invalid_source"


class SourceDenied(SourceError):
    """A stream's source wants other credentials."""


class SourceUntrusted(SourceError):
    """A stream's source shows a certificate that nobody here vouches for."""


class SourceTooLarge(SourceError):
    """A stream's source has pictures of too many pixels."""


class SourceGone(SourceError):
    """A stream's source cannot be reached, or ended where it should not. It may come back."""


class SourceStalled(SourceGone):
    """A stream's source can be reached, and sends nothing."""

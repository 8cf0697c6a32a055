"""The errors that this package raises on purpose. Each class has an HTTP status and a code.

    ServeAppError                  500 internal
    |- Malformed                   400 malformed           the request is not valid HTTP, multipart or JSON
    |- Unauthorized                401 unauthorized        the API key is missing, unknown or expired
    |- Forbidden                   403 forbidden           the API key lacks the permission
    |- NotFound                    404 not_found           no such route, stream or model
    |- UrlsDisabled                403 urls_disabled       fetching images by URL is disabled
    |- Conflict                    409 conflict            the name is already taken
    |- NotFinished                 409 not_finished        the job must end first
    |- Expired                     410 expired             the job's results are no longer kept
    |- TooLarge                    413 too_large           too many bytes, pixels or images
    |- NotAnImage                  415 not_an_image        the bytes are in no supported image format
    |- UnsupportedEncoding         415 unsupported_encoding  the body's Content-Encoding is not supported
    |- Undecodable                 422 undecodable         the image is truncated or corrupt
    |- Unfetchable                 422 unfetchable         the image's URL cannot be fetched
    |  `- UrlUnavailable                                   the URL's server fails or is overloaded; it may recover
    |- InvalidParameter            422 invalid_parameter   a parameter is out of range, unknown or of the wrong type
    |  `- InvalidUrl               422 invalid_url         the URL is malformed, or its address is not allowed
    |- MissingItem                 404 missing             an item of a job is no longer there
    |- ChangedItem                 409 changed             an item of a job has changed since it was listed
    |- UnreadableItem              422 unreadable          an item of a job cannot be read
    |- OutputUnwritable            422 output_unwritable   a job's output can never be written
    |- PoisonPicture               422 poison              the image crashed a process that worked on nothing else
    |- RateLimited                 429 rate_limited        the key's limit is exceeded; with Retry-After
    |- Overloaded                  503 overloaded          a limit is reached; with Retry-After
    |- Unavailable                 503 unavailable         a replica died or is not ready; with Retry-After
    |  |- SlotElsewhere                                    internal: the frame's memory is on another node
    |  |- ReplicaGone                                      internal: no replica is available, or the replica stopped
    |  |  `- ReplicaDied                                   internal: the replica died, perhaps due to this call
    |  `- ModelChanged                                     internal: the frame was prepared for another model
    |- DeadlineExceeded            504 deadline_exceeded   the request took longer than its deadline
    |- NoSpace                     507 no_space            the disk or a quota is full
    `- StartError                  500 start               a deployment or a stream cannot start
       |- ConfigError                                      a setting is wrong
       |- ModelError                                       the weights cannot be found, read or served
       |- SharedMemoryError                                too little shared memory for the frame pool
       `- SourceError             422 invalid_source      a stream's source is not allowed or is not video
          |- SourceMissing                                 the source is a file or a folder that does not exist
          |- SourceDenied                                  the source refuses the credentials
          |- SourceUntrusted                               the source's certificate is not trusted
          |- SourceTooLarge                                the source's frames have too many pixels
          `- SourceGone                                    the source is unreachable or has ended; it may come back
             `- SourceStalled                              the source is reachable, but sends nothing

A deployment returns an expected refusal as a value and does not raise it, because Ray would wrap the exception in a
RayTaskError whose text is the remote traceback. An exception that a deployment handle raises therefore means a bug or a
dead replica.
"""

from __future__ import annotations

from typing import Literal

# The limits that a refusal may name. A name with a dot is a setting; the other limits are fixed. The documentation's
# table of limits says what each limit refuses and what to do then.
Limit = Literal[
    "",  # for refusals without a limit
    "limits.max_requests",
    "limits.max_body_mib",
    "limits.max_megapixels",
    "limits.max_images_per_request",
    "access.concurrency",
    "access.requests_per_s",
    "preprocessor.slots",
    "batcher.max_queue_size",
    "streams.max_streams",
    "max_queued_requests",  # a setting of Ray Serve deployments
    "detector_capacity",
    "json_body",
    "bodies_with_keys",
    "video_frames",
    "form_parts",
    "followers",
    "supervisor_calls",
    "url_fetches",
    "url_fetches_per_key",
    "job_files",
    "jobs.max_jobs",
    "jobs.max_open_per_key",
    "jobs.max_items",
    "jobs.max_disk_gib",
    "sign_ins",
    "failed_sign_ins",
    "previews",
    "preview_messages",
    "source_frames",
]


class ServeAppError(Exception):
    """The base class of all errors.

    ``detail`` is one sentence for the client, without a traceback, a path or a credential. ``limit`` names the limit
    that was reached, so that an operator knows which limit to raise.
    """

    status_code = 500
    code = "internal"
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, limit: Limit = "") -> None:
        super().__init__(detail)  # pickle recreates the error from its ``args``
        self.detail = detail
        self.limit: Limit = limit


class Malformed(ServeAppError):
    """The request is not valid HTTP, multipart or JSON."""

    status_code, code = 400, "malformed"


class Unauthorized(ServeAppError):
    """The request has no API key, or its key is unknown or has expired."""

    status_code, code = 401, "unauthorized"


class Forbidden(ServeAppError):
    """The API key lacks the permission, or no API keys are set and the request does not come from this machine."""

    status_code, code = 403, "forbidden"


class UrlsDisabled(ServeAppError):
    """Fetching images by URL is disabled."""

    status_code, code = 403, "urls_disabled"


class NotFound(ServeAppError):
    """No route, stream or model has this name."""

    status_code, code = 404, "not_found"


class Conflict(ServeAppError):
    """The name or id is already taken."""

    status_code, code = 409, "conflict"


class NotFinished(ServeAppError):
    """The job must end before this is possible."""

    status_code, code = 409, "not_finished"


class Expired(ServeAppError):
    """The job ended so long ago that only its counts are kept."""

    status_code, code = 410, "expired"


class TooLarge(ServeAppError):
    """The request has too many bytes, pixels or images."""

    status_code, code = 413, "too_large"


class NotAnImage(ServeAppError):
    """The bytes are in no supported image format."""

    status_code, code = 415, "not_an_image"


class UnsupportedEncoding(ServeAppError):
    """The body's ``Content-Encoding`` is not supported."""

    status_code, code = 415, "unsupported_encoding"


class Undecodable(ServeAppError):
    """The bytes begin like an image, but the image is truncated or corrupt."""

    status_code, code = 422, "undecodable"


class Unfetchable(ServeAppError):
    """The server of a URL cannot be reached, or does not respond with a file."""

    status_code, code = 422, "unfetchable"


class UrlUnavailable(Unfetchable):
    """The server of a URL cannot be reached, or responds that it is overloaded or has failed. It may recover."""


class InvalidParameter(ServeAppError):
    """A parameter is out of range, unknown or of the wrong type."""

    status_code, code = 422, "invalid_parameter"


class InvalidUrl(InvalidParameter):
    """A URL is malformed, or its host has no address to which the server may connect."""

    code = "invalid_url"


class PoisonPicture(ServeAppError):
    """The image crashed a process, and then crashed a second process that worked on nothing else."""

    status_code, code = 422, "poison"


class RateLimited(ServeAppError):
    """The key's rate or concurrency limit is exceeded. The request was not started, and the client may retry later."""

    status_code, code, retry_after_s = 429, "rate_limited", 1

    def __init__(self, detail: str, retry_after_s: int = 1, *, limit: Limit = "") -> None:
        super().__init__(detail, limit=limit)
        self.retry_after_s = retry_after_s


class Overloaded(ServeAppError):
    """A limit is reached. The request was not started, and the client may retry."""

    status_code, code, retry_after_s = 503, "overloaded", 1


class Unavailable(ServeAppError):
    """A replica died while it handled the request, or no replica is ready. The client may retry."""

    status_code, code, retry_after_s = 503, "unavailable", 1


class SlotElsewhere(Unavailable):
    """The frame's memory is not on this node. The caller must send the frame's bytes instead."""


class ReplicaGone(Unavailable):
    """No replica is available, or the replica stopped before it started the call. The caller may retry."""


class ReplicaDied(ReplicaGone):
    """The replica died during the call, and perhaps because of the call."""


class ModelChanged(Unavailable):
    """The frame was letterboxed for a model that is no longer served. The caller must use the current model."""


class DeadlineExceeded(ServeAppError):
    """The request took longer than its deadline."""

    status_code, code = 504, "deadline_exceeded"


class NoSpace(ServeAppError):
    """The disk or a quota is full."""

    status_code, code = 507, "no_space"


class StartError(ServeAppError):
    """A deployment or a stream cannot start."""

    code = "start"


class ConfigError(StartError):
    """A setting has an invalid value."""


class ModelError(StartError):
    """The weights cannot be found, read or served."""


class SharedMemoryError(StartError):
    """There is too little shared memory for the frame pool."""


class SourceError(StartError):
    """A stream's source is refused, cannot be opened or is not video."""

    status_code, code = 422, "invalid_source"


class SourceMissing(SourceError):
    """A source is a file or a folder that does not exist."""


class SourceDenied(SourceError):
    """A stream's source refuses the credentials."""


class SourceUntrusted(SourceError):
    """A stream's source has a certificate that is not trusted."""


class SourceTooLarge(SourceError):
    """A stream's source has frames with too many pixels."""


class SourceGone(SourceError):
    """A stream's source cannot be reached, or ended unexpectedly. The source may come back."""


class SourceStalled(SourceGone):
    """A stream's source can be reached, but sends nothing."""

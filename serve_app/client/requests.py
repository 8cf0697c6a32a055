"""Every request that a client can send. The synchronous and the asynchronous client send the same requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from serve_app.client import answers
from serve_app.client.errors import ApiError
from serve_app.client.pictures import Picture, to_bytes
from serve_app.client.results import DetectResult, FrameResult
from serve_app.schemas.drift import DriftHistograms, DriftReport, NewReference, ReferenceFile, SourceDrift
from serve_app.schemas.health import HealthResponse, ReadyResponse
from serve_app.schemas.jobs import JobSpec
from serve_app.schemas.models import ModelList
from serve_app.schemas.recording import RecordingList
from serve_app.schemas.streams import Regions, StreamList, StreamSpec, StreamStatus
from serve_app.thresholds import to_text
from serve_app.types import Json, MaskFormat, Snapshot

T = TypeVar("T")

_BINARY = "application/octet-stream"
_RECORDINGS_PAGE = 100


@dataclass(frozen=True)
class ApiRequest(Generic[T]):
    """One request. ``read`` parses the response, and raises ApiError if the response is an error or invalid."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments for httpx


def query(
    model: str | None,
    confidence: float | str | Mapping[str, float] | None,
    iou: float | None,
    classes: Iterable[str | int] | int | None,
    max_detections: int | None,
    agnostic_nms: bool | None,
    mask: MaskFormat | None,
) -> Json:
    """Return the parameters that are not None. The server has defaults for the others.

    Raise ValueError if ``classes`` is an empty list, because a query cannot contain an empty list.
    """
    several = classes if isinstance(classes, Iterable) and not isinstance(classes, str) else [classes]
    named = None if classes is None else [str(one) for one in several]
    if named == []:
        raise ValueError(
            "classes: the list is empty; name at least one class, or leave out the parameter to get every class"
        )
    given = {
        "model": model,
        "confidence": None if confidence is None else to_text(confidence),
        "iou": iou,
        "classes": named,
        "max_detections": max_detections,
        "agnostic_nms": agnostic_nms,
        "mask": mask,
    }
    return {name: value for name, value in given.items() if value is not None}


def detect(image: Picture, params: Json) -> ApiRequest[DetectResult]:
    """Return the request that detects objects in one image."""
    options = {"params": params, "content": to_bytes(image), "headers": {"Content-Type": _BINARY}}
    return ApiRequest("POST", "/detect", answers.model_of(DetectResult), options)


def annotate(image: Picture, params: Json) -> ApiRequest[bytes]:
    """Return the request that detects objects in one image and draws their boxes."""
    headers = {"Content-Type": _BINARY, "Accept": "image/jpeg"}
    options = {"params": params, "content": to_bytes(image), "headers": headers}
    return ApiRequest("POST", "/detect", answers.jpeg_of, options)


def detect_many(images: Sequence[Picture], params: Json) -> ApiRequest[list[DetectResult | ApiError]]:
    """Return the request that detects objects in several images."""
    parts = [("file", (str(number), to_bytes(image), _BINARY)) for number, image in enumerate(images)]

    def read(response: httpx.Response) -> list[DetectResult | ApiError]:
        return answers.results_of(response, len(parts))

    return ApiRequest("POST", "/detect", read, {"params": params, "files": parts})


def create_stream(spec: StreamSpec | Json) -> ApiRequest[StreamStatus]:
    """Return the request that starts a stream."""
    return ApiRequest("POST", "/streams", answers.model_of(StreamStatus), {"json": to_json(spec)})


def list_streams() -> ApiRequest[StreamList]:
    """Return the request that lists every stream."""
    return ApiRequest("GET", "/streams", answers.model_of(StreamList))


def stream_status(stream_id: str) -> ApiRequest[StreamStatus]:
    """Return the request for a stream's status."""
    return ApiRequest("GET", stream_path(stream_id), answers.model_of(StreamStatus))


def replace_stream(spec: StreamSpec | Json) -> ApiRequest[StreamStatus]:
    """Return the request that replaces the stream with the id of ``spec``. Raise ValueError if ``spec`` has no id."""
    body = to_json(spec)
    stream_id = body.get("id")
    if not isinstance(stream_id, str):
        raise ValueError("id: it is missing; set it to the id of the stream to replace")
    return ApiRequest("PUT", stream_path(stream_id), answers.model_of(StreamStatus), {"json": body})


def delete_stream(stream_id: str) -> ApiRequest[None]:
    """Return the request that deletes a stream."""
    return ApiRequest("DELETE", stream_path(stream_id), answers.check_deleted)


def pause_stream(stream_id: str) -> ApiRequest[StreamStatus]:
    """Return the request that pauses a stream."""
    return ApiRequest("POST", stream_path(stream_id, "pause"), answers.model_of(StreamStatus))


def resume_stream(stream_id: str) -> ApiRequest[StreamStatus]:
    """Return the request that resumes a stream."""
    return ApiRequest("POST", stream_path(stream_id, "resume"), answers.model_of(StreamStatus))


def stream_regions(stream_id: str) -> ApiRequest[Regions]:
    """Return the request for a stream's zones and lines."""
    return ApiRequest("GET", stream_path(stream_id, "regions"), answers.model_of(Regions))


def set_stream_regions(stream_id: str, regions: Regions | Json) -> ApiRequest[StreamStatus]:
    """Return the request that replaces a stream's zones and lines."""
    options = {"json": to_json(regions)}
    return ApiRequest("PUT", stream_path(stream_id, "regions"), answers.model_of(StreamStatus), options)


def stream_detections(stream_id: str) -> ApiRequest[FrameResult]:
    """Return the request for the detections in a stream's latest frame."""
    return ApiRequest("GET", stream_path(stream_id, "detections"), answers.model_of(FrameResult))


def stream_frame(stream_id: str, boxes: bool) -> ApiRequest[Snapshot]:
    """Return the request for a stream's latest frame as a JPEG."""
    return ApiRequest("GET", stream_path(stream_id, "frame.jpg"), answers.frame_of, {"params": {"boxes": boxes}})


def stream_recordings(stream_id: str, before: str | None) -> ApiRequest[RecordingList]:
    """Return the request for a page of a stream's recordings."""
    params = {"limit": _RECORDINGS_PAGE} | ({} if before is None else {"before": before})
    return ApiRequest("GET", stream_path(stream_id, "recordings"), answers.model_of(RecordingList), {"params": params})


def stream_recording(stream_id: str, file_name: str) -> ApiRequest[None]:
    """Return the request for a clip or a snapshot. ``read`` only checks the status of the response."""
    return ApiRequest("GET", stream_path(stream_id, "recordings", quote(file_name, safe="")), answers.check)


def models() -> ApiRequest[ModelList]:
    """Return the request that lists every model."""
    return ApiRequest("GET", "/models", answers.model_of(ModelList))


def drift() -> ApiRequest[DriftReport]:
    """Return the request for the drift of every source."""
    return ApiRequest("GET", "/drift", answers.model_of(DriftReport))


def drift_histograms(source: str, model: str) -> ApiRequest[DriftHistograms]:
    """Return the request for the histograms of a source."""
    options = {"params": {"source": source, "model": model}}
    return ApiRequest("GET", "/drift/histograms", answers.model_of(DriftHistograms), options)


def drift_reference(source: str, model: str) -> ApiRequest[ReferenceFile]:
    """Return the request for the reference of a source."""
    options = {"params": {"source": source, "model": model}}
    return ApiRequest("GET", "/drift/reference", answers.model_of(ReferenceFile), options)


def set_drift_reference(new: NewReference) -> ApiRequest[SourceDrift]:
    """Return the request that sets the reference of a source."""
    return ApiRequest("PUT", "/drift/reference", answers.model_of(SourceDrift), {"json": to_json(new)})


def health() -> ApiRequest[HealthResponse]:
    """Return the request that checks whether the process responds."""
    return ApiRequest("GET", "/health", answers.model_of(HealthResponse))


def ready() -> ApiRequest[ReadyResponse]:
    """Return the request that checks whether a warm model is ready."""
    return ApiRequest("GET", "/readyz", answers.model_of(ReadyResponse))


def stream_path(stream_id: str, *more: str) -> str:
    """Return the path of a stream, such as ``/streams/lot/events`` for ``lot`` and ``events``."""
    return "/".join(("/streams", quote(stream_id, safe=""), *more))


def to_json(spec: BaseModel | Json) -> Json:
    """Return a specification as JSON. A dictionary is sent unchanged, because the server validates it."""
    if not isinstance(spec, BaseModel):
        return spec
    # We send the id even if it was generated, because the caller expects the id ``spec.id``.
    own_id = {"id": spec.id} if isinstance(spec, StreamSpec | JobSpec) else {}
    return spec.model_dump(mode="json", exclude_unset=True) | own_id

"""The examples of the OpenAPI document. A test validates each example against its schema."""

from __future__ import annotations

from typing import Any

from serve_app.types import Json

REQUEST_ID = "93fba816-25d3-4914-9580-a3058a4fc6a6"
STREAM_ID = "gate"
EVENT_ID = 17
JOB_ID = "night-28"
KEY_NAME = "dock"
NEW_OWNER: Json = {"owner": KEY_NAME}

_MARKER: Json = {
    "label": "marker",
    "class_id": 3,
    "confidence": 0.944,
    "bbox": {"x1": 994.34, "y1": 500.13, "x2": 1135.99, "y2": 640.26},
}
_FOUND: Json = {
    "count": 1,
    "detections": [_MARKER],
    "image": {"width": 1280, "height": 720},
    "input": {"width": 640, "height": 384},
    "model": "codes",
    "timing_ms": {"decode": 8.1, "queue": 0.03, "inference": 28.93, "postprocess": 0.61, "total": 49.5},
    "batch_size": 1,
}
_CORRUPT: Json = {"code": "undecodable", "detail": "the image is truncated or corrupt", "request_id": REQUEST_ID}

DETECTED: Json = _FOUND | {"request_id": REQUEST_ID}
SEGMENTED: Json = DETECTED | {
    "detections": [_MARKER | {"segments": [[[1002.5, 500.1], [1135.9, 512.0], [1120.4, 640.2], [994.3, 628.7]]]}]
}
SEGMENTED_RLE: Json = DETECTED | {
    "detections": [
        {
            "label": "barcode",
            "class_id": 2,
            "confidence": 0.871,
            "bbox": {"x1": 1000.0, "y1": 500.0, "x2": 1004.0, "y2": 640.0},
            "mask": {"size": [720, 1280], "counts": "dcoe0\\4Tb000000\\bQ6"},
        }
    ]
}
POSED: Json = DETECTED | {
    "detections": [
        _MARKER | {"keypoints": [[1002.51, 503.2, 0.981], [1120.33, 505.7, 0.972], [1061.4, 630.05, 0.318]]}
    ],
    "keypoint_names": ["left", "right", "tip"],
}
ROTATED: Json = DETECTED | {
    "detections": [
        _MARKER
        | {
            "bbox": {"x1": 994.67, "y1": 500.04, "x2": 1135.67, "y2": 640.36},
            "obb": {
                "x1": 1103.80,
                "y1": 640.36,
                "x2": 1135.67,
                "y2": 532.19,
                "x3": 1026.54,
                "y3": 500.04,
                "x4": 994.67,
                "y4": 608.21,
            },
            "angle": 0.2865,
        }
    ]
}
CLASSIFIED: Json = DETECTED | {
    "count": 0,
    "detections": [],
    "classes": [
        {"label": "open", "class_id": 1, "confidence": 0.9312},
        {"label": "shut", "class_id": 0, "confidence": 0.0688},
    ],
}
DETECTED_MANY: Json = {"results": [DETECTED, _CORRUPT]}
PICTURE_URL: Json = {"url": "https://example.com/dock.jpg"}

MODELS: Json = {
    "models": [
        {
            "name": "default",
            "state": "ready",
            "model": "codes",
            "version": "5f0c2a9b71d3",
            "task": "detect",
            "engine": "openvino",
            "precision": "fp32",
            "image_size_px": 640,
            "input_height_px": 640,
            "input_width_px": 640,
            "suppression": "by_request",
            "labels": ["qr_code", "data_matrix", "barcode", "marker"],
            "refused_change": "",
        },
        {"name": "plates", "state": "asleep"},
    ]
}
_HISTOGRAM: Json = {
    "bounds_ms": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 60000],
    "counts": [0, 0, 0, 12, 380, 96, 3, 0, 0, 0, 0, 0, 0, 0, 0],
}
OVERVIEW: Json = {
    "at_s": 1764332211.4,
    "models": [
        {
            "status": MODELS["models"][0],
            "replicas": 1,
            "images_per_s": 24.6,
            "mean_batch_size": 1.8,
            "queue_delay_ms": 3.1,
            "images": 491,
            "batches": 273,
            "stages": {"queue": _HISTOGRAM, "inference": _HISTOGRAM, "postprocess": _HISTOGRAM},
        }
    ],
    "replicas": {"Ingress": 1, "Preprocessor": 1, "Detector": 1, "StreamSupervisor": 1},
    "requests_per_s": 4.5,
    "stages": {"decode": _HISTOGRAM, "total": _HISTOGRAM},
    "refusals": [{"code": "rate_limited", "limit": "access.requests_per_s", "count": 7}],
    "streams": {"running": 3, "paused": 1},
    "jobs": {"running": 1, "completed": 12},
    "drift": {
        "states": {"steady": 3, "drifting": 1},
        "drifting": [{"model": "default", "source": f"stream/{STREAM_ID}", "features": ["brightness"]}],
    },
    "dashboard_url": "http://127.0.0.1:8265",
}
HEALTH: Json = {"status": "ok"}
READY: Json = {
    "status": "ready",
    "model": "codes",
    "version": "5f0c2a9b71d3",
    "engine": "openvino",
    "precision": "fp32",
    "refused_change": False,
}

REGIONS: Json = {
    "zones": [{"name": "dock", "polygon": [[0.1, 0.5], [0.9, 0.5], [0.9, 1.0], [0.1, 1.0]], "labels": []}],
    "lines": [{"name": "in", "start": [0.5, 1.0], "end": [0.5, 0.0], "labels": ["person"]}],
}
STREAM: Json = {
    "id": STREAM_ID,
    "source": {"uri": "rtsp://user:password@camera/1"},
    "max_fps": 10,
    "lines": REGIONS["lines"],
    "sinks": [{"type": "mqtt", "url": "mqtt://127.0.0.1", "events": ["line", "state"]}],
}
STREAM_RESULT: Json = _FOUND | {
    "detections": [_MARKER | {"track_id": 4}],
    "stream_id": STREAM_ID,
    "frame_id": 1730,
    "captured_at_s": 1764331200.25,
    "age_s": 0.0495,
}
STREAM_STATUS: Json = {
    "stream_id": STREAM_ID,
    "state": "running",
    "detail": "",
    "source": "rtsp://camera/1",
    "policy": "drop_oldest",
    "uptime_s": 173.1,
    "source_fps": 25.0,
    "captured": 1731,
    "processed": 1730,
    "dropped": {},
    "camera_fps": 10.0,
    "processed_fps": 10.0,
    "dropped_fps": 0.0,
    "lines": {"in": {"crossed_in": 12, "crossed_out": 9}},
    "scene_health": {"state": "ok", "since_at_s": 1764331030.5, "detail": ""},
    "latest": STREAM_RESULT,
}
STREAMS: Json = {"streams": [STREAM_STATUS]}
CLIP = "2025-11-28T12-00-00.250Z.mp4"
RECORDINGS: Json = {
    "recordings": [
        {
            "name": "2025-11-28T12-00-00.250Z",
            "triggered_at_s": 1764331200.25,
            "clip": CLIP,
            "snapshot": "2025-11-28T12-00-00.250Z.jpg",
            "size_bytes": 812345,
        }
    ]
}
EVENTS = (
    f"id: {EVENT_ID}\n"
    "event: line\n"
    f'data: {{"event_id":{EVENT_ID},"type":"line","stream_id":"{STREAM_ID}","at_s":1764331200.31,"frame_id":1730,'
    '"captured_at_s":1764331200.25,"line":"in","direction":"in","track_id":4,"label":"person"}\n\n'
)

JOB: Json = {
    "id": JOB_ID,
    "source": {"type": "files", "path": "night/**/*.jpg"},
    "detect": {"confidence": 0.4, "classes": ["marker"]},
    "outputs": [{"formats": ["jsonl", "coco"]}],
    "sinks": [{"type": "webhook", "url": "https://example.com/hook", "events": ["state"]}],
    "tags": {"site": "dock"},
}
JOB_STATUS: Json = {
    "job_id": JOB_ID,
    "state": "running",
    "owner": None,
    "source": "night/**/*.jpg",
    "tags": {"site": "dock"},
    "listed": True,
    "items": 120000,
    "succeeded": 61240,
    "failed": 12,
    "waiting": 58684,
    "in_flight": 64,
    "errors": {"undecodable": 12},
    "detections": {"marker": 90211},
    "images_per_s": 58.1,
    "eta_s": 1011.2,
    "units": {"open": 1834, "out": 2, "done": 1914, "repeated": 1},
    "models": {"codes@5f0c2a9b71d3": 61240},
    "created_at_s": 1764331200.25,
    "started_at_s": 1764331200.65,
    "outputs": [{"uri": "", "formats": ["jsonl", "coco"], "written": 0, "detail": ""}],
    "sinks": [
        {"type": "webhook", "target": "https://example.com/hook", "sent": 1, "waiting": 0, "dropped": {}, "detail": ""}
    ],
}
JOBS: Json = {"jobs": [JOB_STATUS], "next": None}
RETRY: Json = {"items": ["unfetchable", "missing"]}
JOB_ITEMS: Json = {
    "items": [
        {
            "job_id": JOB_ID,
            "item": 0,
            "name": "night/0001.jpg",
            "count": 1,
            "detections": [_MARKER],
            "image": {"width": 1280, "height": 720},
            "model": "codes@3f9c6a1b2d4e",
        },
        {
            "job_id": JOB_ID,
            "item": 1,
            "name": "night/0002.jpg",
            "code": "undecodable",
            "detail": "the image is truncated or corrupt",
        },
    ],
    "next": 1,
}
COCO: Json = {
    "images": [{"id": 0, "file_name": "night/0001.jpg", "width": 1280, "height": 720}],
    "categories": [{"id": 3, "name": "marker"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 0,
            "category_id": 3,
            "bbox": [994.34, 500.13, 141.65, 140.13],
            "area": 19849.41,
            "iscrowd": 0,
            "score": 0.944,
        }
    ],
}
JOB_EVENTS = (
    f"id: {EVENT_ID}\n"
    "event: state\n"
    f'data: {{"event_id":{EVENT_ID},"type":"state","job_id":"{JOB_ID}","at_s":1764332211.4,"state":"completed",'
    '"previous":"finishing","detail":""}\n\n'
)


_DRIFT_FEATURE: Json = {"psi": 3.2, "limit": 0.41, "observations": 200, "drifting": True, "detail": ""}
DRIFT_SOURCE = f"stream/{STREAM_ID}"
DRIFT: Json = {
    "sources": [
        {
            "model": "default",
            "version": "5f0c2a9b71d3",
            "source": DRIFT_SOURCE,
            "state": "drifting",
            "detail": "",
            "drifting": ["brightness"],
            "since_at_s": 1764331200.25,
            "seen_at_s": 1764331945.5,
            "window_images": 200,
            "reference": {"images": 24000, "hours": list(range(24)), "origin": "first_images"},
            "features": {"brightness": _DRIFT_FEATURE},
        }
    ]
}
DRIFT_HISTOGRAMS: Json = {
    "model": "default",
    "source": DRIFT_SOURCE,
    "features": {"detections": {"bins": ["under 1", "1 and more"], "reference": [0.25, 0.75], "current": [0.9, 0.1]}},
}
REFERENCE: Json = {
    "format": "sightline-drift-1",
    "hours": [{"hour": 7, "counts": [0, 12, 988]}],
    "blocks": 5,
    "noise": {"brightness": 0.12},
}
NEW_REFERENCE: Json = {"source": DRIFT_SOURCE, "since_at_s": 1763726400.0}

SNAPSHOT: Json = {"source": {"uri": "rtsp://camera.example/1"}}
SIGN_IN: Json = {"key": "sl_hTq2V7cOZ9w4mNfB0sJxKdEy6uRaLgPi3tX8vQk1WnM"}
SESSION: Json = {
    "name": KEY_NAME,
    "permissions": ["detect", "streams"],
    "expires_at_s": 1764360000,
    "csrf_token": "p3Fq0b8m1WkYxv2ZrJtT5uN7cA9dEgHs4oLiQfBXyK0",
}


def of_response(
    example: Any, *, status_code: int = 200, media_type: str = "application/json"
) -> dict[int | str, dict[str, Any]]:
    """Return a value for a route's ``responses``. The value adds an example to the response."""
    return {status_code: {"content": {media_type: {"example": example}}}}


def of_request(example: Json) -> dict[str, Any]:
    """Return a value for a route's ``openapi_extra``. The value adds an example to the request body."""
    return {"requestBody": {"content": {"application/json": {"example": example}}}}

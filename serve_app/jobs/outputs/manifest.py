"""The manifest of an output, which is written last: if it exists, all other files are complete."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from serve_app.jobs.outputs.results import OutputFile

NAME = "manifest.json"


def manifest(
    job_id: str, *, succeeded: int, failed: int, files: Sequence[OutputFile], pictures: Collection[str]
) -> bytes:
    """Return the manifest as JSON: the counts, each file's size and SHA-256, and the folders of images."""
    content = {
        "job_id": job_id,
        "succeeded": succeeded,
        "failed": failed,
        "files": [{"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in files],
        "image_folders": list(pictures),
    }
    return json.dumps(content, indent=2).encode() + b"\n"

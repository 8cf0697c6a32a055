"""Whether a stream's sinks and recordings can be what it asks for, tried before it is accepted."""

from __future__ import annotations

import os
from pathlib import Path

from serve_app.errors import InvalidParameter
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import JsonLinesSink, StreamSpec
from serve_app.streams.outputs.sinks import check_sink


def check_outputs(spec: StreamSpec, output_dir: Path | None, guard: AddressGuard) -> None:
    """Raises InvalidParameter or StartError for sinks and recordings that cannot be."""
    for sink in spec.sinks:
        check_sink(sink, spec.id, output_dir, guard)
    if spec.recording and output_dir is None:
        raise InvalidParameter("recordings need streams.output_dir (SERVE_APP_OUTPUT_DIR)")
    writes_files = spec.recording or any(isinstance(sink, JsonLinesSink) for sink in spec.sinks)
    if writes_files and output_dir is not None and not os.access(output_dir, os.W_OK | os.X_OK):
        raise InvalidParameter(
            "streams.output_dir (SERVE_APP_OUTPUT_DIR) is not there, or cannot be written: make it, or mount what "
            "belongs there; without it, leave out recordings and sinks of type jsonl"
        )

"""Checks of a stream's sinks and recording settings before the stream is accepted."""

from __future__ import annotations

import os
from pathlib import Path

from serve_app.errors import InvalidParameter
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.streams import JsonLinesSink, StreamSpec, VideoSink
from serve_app.sinks import check_sink
from serve_app.sinks.outlet import parse_url


def check_outputs(spec: StreamSpec, output_dir: Path | None, guard: AddressGuard) -> None:
    """Raise InvalidParameter if the settings of a sink or the recording are not valid.

    The output folder must also be writable if the stream writes files.

    Raise StartError if the library for a sink is not installed.
    """
    for sink in spec.sinks:
        if isinstance(sink, VideoSink):
            guard.check_literal_address(parse_url(sink.url).hostname or "")
        else:
            check_sink(sink, spec.id, output_dir, guard)
    if spec.recording and output_dir is None:
        raise InvalidParameter("recording needs streams.output_dir; set SERVE_APP_OUTPUT_DIR")
    writes_files = spec.recording or any(isinstance(sink, JsonLinesSink) for sink in spec.sinks)
    if writes_files and output_dir is not None and not os.access(output_dir, os.W_OK | os.X_OK):
        raise InvalidParameter(
            "streams.output_dir (SERVE_APP_OUTPUT_DIR) does not exist or cannot be written; create it, mount its "
            "volume, or leave out recordings and sinks of type jsonl"
        )

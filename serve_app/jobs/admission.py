"""The checks of a job before it is stored."""

from __future__ import annotations

from serve_app.config import AppArgs
from serve_app.errors import InvalidParameter
from serve_app.jobs.outputs import check_outputs
from serve_app.schemas.jobs import JobSpec
from serve_app.sinks import check_sink


def check_spec(spec: JobSpec, args: AppArgs) -> None:
    """Raise InvalidParameter or another ServeAppError if a setting of the job is not valid or not allowed.

    ``sources.open_source`` checks the source.
    """
    if spec.detect.model not in args.detectors():
        raise InvalidParameter(f"detect.model: model {spec.detect.model!r} is not currently deployed; see GET /models")
    check_outputs(spec, args)
    guard = args.outbound.guard()
    for sink in spec.sinks:
        check_sink(sink, spec.id, None, guard)

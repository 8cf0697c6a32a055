"""Images of sources that are not streams yet. The sources pass the same checks as those of streams."""

from __future__ import annotations

from serve_app.config import StreamArgs
from serve_app.errors import PoisonPicture, SourceError, SourceStalled
from serve_app.ipc.quarantine import Quarantine
from serve_app.network.address_guard import AddressGuard
from serve_app.overload.limits import ConcurrencyLimit
from serve_app.schemas.streams import SourceSpec
from serve_app.video.first_frame import read_first_frame
from serve_app.video.source import parse_source

MAX_SOURCE_FRAMES = 2  # sources that a Preprocessor reads at the same time, each in a process of its own
_TIMEOUT_S = 10.0


class SourceFrames:
    """Reads one frame of a source in a separate process, which a hostile source may crash or block."""

    def __init__(self, args: StreamArgs, guard: AddressGuard, max_pixels: int) -> None:
        self._args = args
        self._guard = guard
        self._max_pixels = max_pixels
        refusal = f"{MAX_SOURCE_FRAMES} sources are being read, which is the limit; retry later"
        self._limit = ConcurrencyLimit(MAX_SOURCE_FRAMES, "source_frames", refusal)

    async def read(self, spec: SourceSpec) -> bytes:
        """Return a frame as a JPEG.

        Raise SourceError if the source is not allowed, cannot be read, or sends no frame within 10 s. Raise Overloaded,
        which names ``source_frames``, if too many sources are being read.
        """
        source = parse_source(spec.uri, self._args.folders(), tls_verify=spec.tls_verify)
        with self._limit.one():
            process = Quarantine(_TIMEOUT_S)  # a new one, because it takes memory and is seldom needed
            try:
                return await process.run(read_first_frame, source, self._max_pixels, self._guard)
            except PoisonPicture:
                raise SourceStalled(f"{source.name} sent no frame within {_TIMEOUT_S:g} s") from None
            except RuntimeError as exc:  # an unexpected error in the other process, whose text has only names
                raise SourceError(f"{source.name} cannot be read") from exc
            finally:
                await process.close()

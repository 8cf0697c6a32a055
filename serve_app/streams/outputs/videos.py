"""The outputs of a stream that take its frames: the recorder and the video sinks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.config import StreamArgs
from serve_app.detections import Detections
from serve_app.network.address_guard import AddressGuard
from serve_app.schemas.recording import ClipNotice, RecordingStatus
from serve_app.schemas.sinks import SinkStatus
from serve_app.schemas.streams import StreamSpec, VideoSink
from serve_app.streams.outputs.recorder import Recorder
from serve_app.streams.outputs.restream import Restream
from serve_app.types import Pixels


class VideoOutputs:
    """The recorder and the video sinks of one stream. None of them makes the stream wait."""

    def __init__(
        self, spec: StreamSpec, args: StreamArgs, guard: AddressGuard, *, on_clip: Callable[[ClipNotice], None]
    ) -> None:
        """Start the recorder, if the stream has one. It calls ``on_clip`` in its own thread."""
        folder = args.output_folder()
        self._recorder = (
            Recorder(spec.recording, folder / spec.id, on_clip=on_clip) if spec.recording and folder else None
        )
        self._sinks = [
            Restream(sink, spec.id, guard, args.hwaccel) for sink in spec.sinks if isinstance(sink, VideoSink)
        ]

    def put(self, pixels: Pixels, detections: Detections, captured_at_s: float) -> None:
        """Take a frame and what was detected in it. The caller must not change the pixels afterwards."""
        if self._recorder:
            self._recorder.put(pixels, detections, captured_at_s)
        for sink in self._sinks:
            sink.put(pixels, detections, captured_at_s)

    def put_still(self, pixels: Pixels, captured_at_s: float) -> None:
        """Take a frame in which nothing has moved, which the model did not get. The recorder leaves it out."""
        for sink in self._sinks:
            sink.put(pixels, Detections.empty(), captured_at_s)

    def recording(self) -> RecordingStatus | None:
        """Return the recorder's counters, or None if the stream has no recorder."""
        return self._recorder.status() if self._recorder else None

    def sinks(self) -> list[SinkStatus]:
        """Return the counters of the video sinks."""
        return [sink.status() for sink in self._sinks]

    async def close(self, timeout_s: float) -> None:
        """Finish the clip and the videos. This takes up to twice ``timeout_s``."""
        closing = [sink.close(timeout_s) for sink in self._sinks]
        if self._recorder:
            closing.append(asyncio.to_thread(self._recorder.close, timeout_s))
        await asyncio.gather(*closing)
        await asyncio.sleep(0)  # so that the last recording events reach the sinks before the sinks close

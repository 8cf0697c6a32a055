"""Selection of the packets that are decoded, if only some of a video's frames are taken.

A frame of a video usually depends on earlier frames, so a decoder cannot skip just any frame. It can skip two kinds:

- Non-reference frames: no other frame depends on them. FFmpeg skips them with ``skip_frame``.
- All frames but the key frames, which depend on no other frame. We then do not give FFmpeg the other packets at all.

No frame is lost to the counters: every frame that is not decoded is still returned, in order, as ``Skipped`` or, if it
is a key frame, as ``NotYetDecoded``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av

from serve_app.types import Pixels
from serve_app.video.decoding import Decoding
from serve_app.video.intervals import Intervals
from serve_app.video.pictures import NotYetDecoded, Skipped

TimedPixels = tuple[Callable[[], Pixels], float | None]  # (the pixels or their stand-in, the frame's time in seconds)
_Undecoded = NotYetDecoded | Skipped

_ALWAYS = -(1 << 63)  # smaller than all timestamps
_MAX_WAITING = 1000  # if more frames are missing, the decoder does not return timestamps that we can use


class SelectiveDecoder:
    """Decodes the frames of a video that a capture with a ``max_fps`` needs, and returns all frames in order.

    - If key frames are close enough that each interval ``1 / max_fps`` has one, it decodes only the key frames that the
      capture takes.
    - Otherwise, it decodes the reference frames, if the capture takes at most every fifth frame.
    - Otherwise, it decodes all frames.

    The intervals are measured, and measured again after every key frame. The packets since the last key frame are kept.
    If the next key frame is late, they are decoded, so that no frame that is due is lost.

    All frames are decoded as long as packets and frames do not correspond one to one, in the order of their timestamps:
    if timestamps are missing or wrong, if packets hold frames that are not shown, or if they hold the fields of an
    interlaced video.
    """

    def __init__(
        self,
        codec: Any,
        time_base: Fraction,
        decoding: Decoding,
        max_fps: float | None,
        to_pixels: Callable[[Any], Callable[[], Pixels]],
    ) -> None:
        """Prepare the decoder.

        Without ``max_fps``, it decodes all frames. ``to_pixels`` returns the function that converts one of PyAV's
        frames.
        """
        self._codec = codec
        self._time_base = time_base
        self._decoding = decoding
        self._to_pixels = to_pixels
        self._selects = max_fps is not None
        self._intervals = Intervals(time_base, max_fps or 1.0)
        self._is_at_key_frames = False  # whether only key frames are decoded
        self._group: list[Any] = []  # the packets since the last key frame, if only key frames are decoded
        # Decoding began at the frame with the timestamp ``_start_pts``. Earlier frames that directly follow it in
        # decoding order depend on frames that were not decoded.
        self._start_pts = self._last_pts = _ALWAYS
        self._is_recovering = False  # whether the decoder has not returned a frame since decoding began there
        self._counted: set[int] = set()  # the frames that the decoder may still return, but that were returned already
        # The frames that have not been returned yet: timestamp, number, and None if the decoder will return the frame.
        self._waiting: list[tuple[int, int, _Undecoded | None]] = []
        self._number = 0

    def pictures(self, packet: Any) -> Iterator[TimedPixels]:
        """Yield the frames that a packet completes, in order of presentation.

        Process each frame before the next is requested. Raise FFmpegError if the packet cannot be decoded.
        """
        if not self._selects:
            yield from ((self._to_pixels(frame), frame.time) for frame in self._codec.decode(packet))
            return
        if not packet.size and packet.dts is None:  # the end of the video
            if not self._is_at_key_frames:
                yield from self._returned(self._codec.decode(packet))
            yield from self._return_up_to(None)
            return
        if len(self._waiting) > _MAX_WAITING and not self._is_at_key_frames:
            self._intervals.fail()
            yield from self._return_up_to(None)
        # The first packet of an RTSP camera may have no timestamp. A frame outside an MP4's edit list is not shown.
        if packet.pts is None or packet.is_discard:
            yield from self._decode_uncounted(packet)
            return
        was_set_back = self._intervals.add(packet)
        if packet.is_keyframe:
            yield from self._begin_group(packet.pts)
        elif self._is_at_key_frames and self._intervals.is_late(packet.pts):
            yield from self._catch_up()
        if was_set_back and not packet.is_keyframe:
            self._start_pts = _ALWAYS
        if self._is_at_key_frames:
            self._group.append(packet)
            self._wait_for(packet.pts, self._lazily(packet) if packet.is_keyframe else Skipped())
            yield from self._return_up_to(packet.pts if packet.dts is None else packet.dts)
        else:
            yield from self._returned(self._send(packet))

    def _decode_uncounted(self, packet: Any) -> Iterator[TimedPixels]:
        """Decode a packet whose frame has no timestamp or is not shown, and measure the video again after it."""
        self._intervals.begin_again()
        if self._is_at_key_frames:
            yield from self._catch_up()
        self._codec.skip_frame = "DEFAULT"
        self._decoding.frames = "all"
        yield from self._returned(self._codec.decode(packet))

    def _begin_group(self, pts: int) -> Iterator[TimedPixels]:
        """Decide, at a key frame, whether to decode only key frames from now on."""
        if self._is_at_key_frames:
            yield from self._return_up_to(None)
            self._group.clear()
            if not self._intervals.may_use_key_frames:
                self._leave_key_frames(pts)
        elif self._intervals.may_use_key_frames:
            yield from self._drain()
            self._is_at_key_frames = True
            self._decoding.frames = "key_frames"
        else:
            self._start_pts = _ALWAYS

    def _leave_key_frames(self, start_pts: int) -> None:
        self._is_at_key_frames, self._is_recovering = False, True
        self._start_pts = self._last_pts = start_pts
        self._decoding.frames = "all"

    def _catch_up(self) -> Iterator[TimedPixels]:
        """Decode the packets since the last key frame, because the following frames depend on them."""
        yield from self._return_up_to(None)
        group, self._group = self._group, []
        self._leave_key_frames(group[0].pts)
        self._counted = {packet.pts for packet in group}
        for packet in group:
            try:
                yield from self._returned(self._send(packet))
            except av.FFmpegError:
                continue
        self._waiting.clear()

    def _lazily(self, packet: Any) -> NotYetDecoded:
        def decode() -> Callable[[], Pixels] | None:
            try:
                # The decoder returns the frame at once, instead of waiting for later frames, because it is told that
                # the video ends.
                frames = self._codec.decode(packet) + self._codec.decode(None)
            except av.FFmpegError:
                frames = []
            self._codec.flush_buffers()
            if not frames or frames[0].interlaced_frame:  # it may be only one of the frame's two fields
                self._intervals.fail()
                return None
            return self._to_pixels(frames[0])

        return NotYetDecoded(decode)

    def _send(self, packet: Any) -> list[Any]:
        """Decode a packet, and return the frames that the decoder returns, which may belong to earlier packets."""
        if packet.pts < self._start_pts:
            self._wait_for(packet.pts, Skipped())
            return []
        if packet.pts > self._start_pts:
            self._start_pts = _ALWAYS
        if packet.pts < self._last_pts:  # a later frame was returned already, so the source's clock was set back
            self._intervals.begin_again()
        is_skipping = self._intervals.may_skip
        self._codec.skip_frame = "NONREF" if is_skipping else "DEFAULT"
        if not is_skipping:
            self._decoding.frames = "all"
        waiting = self._wait_for(packet.pts, Skipped() if is_skipping else None)
        try:
            frames: list[Any] = self._codec.decode(packet)
        except av.FFmpegError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                heapq.heapify(self._waiting)
            raise
        return frames

    def _wait_for(self, pts: int, undecoded: _Undecoded | None) -> tuple[int, int, _Undecoded | None]:
        self._number += 1
        waiting = (pts, self._number, undecoded)
        heapq.heappush(self._waiting, waiting)
        return waiting

    def _returned(self, frames: Iterable[Any]) -> Iterator[TimedPixels]:
        """Yield frames that the decoder has returned, each after the skipped frames before it."""
        for frame in frames:
            pts = frame.pts
            if pts is None or frame.interlaced_frame:  # an interlaced frame may be two packets, one for each field
                self._intervals.begin_again()
            if pts is None:
                yield self._to_pixels(frame), None
                continue
            if pts in self._counted:
                self._counted.discard(pts)
                self._last_pts = pts
                continue
            self._counted.clear()  # the decoder returns frames in order, so it has returned all earlier ones
            if pts < self._last_pts:  # the source's clock was set back, or timestamps are wrong, as in AVI
                self._intervals.fail()
                yield from self._return_up_to(None)
            has_skipped = False
            while self._waiting and self._waiting[0][0] < pts:
                waiting_pts, _, undecoded = heapq.heappop(self._waiting)
                if undecoded:
                    has_skipped = True
                    yield undecoded, self._time_s(waiting_pts)
                elif self._is_recovering:  # the decoder could not return it without the frames that were skipped
                    yield Skipped(), self._time_s(waiting_pts)
                else:  # the packet had no frame, so packets cannot be counted instead of frames
                    self._intervals.begin_again()
            if self._waiting and self._waiting[0][0] == pts:
                heapq.heappop(self._waiting)
            self._is_recovering = False
            if has_skipped and self._codec.skip_frame == "NONREF":
                self._decoding.frames = "reference_frames"
                if self._intervals.is_long(pts - self._last_pts):
                    self._intervals.fail()
            self._last_pts = pts
            yield self._to_pixels(frame), self._time_s(pts)

    def _return_up_to(self, pts: int | None) -> Iterator[TimedPixels]:
        """Yield the frames that are not decoded, up to a timestamp or, if it is None, all of them."""
        while self._waiting and (pts is None or self._waiting[0][0] <= pts):
            waiting_pts, _, undecoded = heapq.heappop(self._waiting)
            if undecoded:
                yield undecoded, self._time_s(waiting_pts)

    def _drain(self) -> Iterator[TimedPixels]:
        """Yield all frames that the decoder still has, so that it can begin at another key frame."""
        try:
            frames = self._codec.decode(None)
        finally:
            self._codec.flush_buffers()
        yield from self._returned(frames)
        yield from self._return_up_to(None)
        self._counted.clear()
        self._codec.skip_frame = "DEFAULT"

    def _time_s(self, pts: int) -> float:
        return pts * self._time_base.numerator / self._time_base.denominator

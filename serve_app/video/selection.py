"""Selection of the packets that are decoded, if only some of a video's frames are taken.

A frame of a video usually depends on earlier frames, so a decoder cannot skip just any frame. It can skip two kinds:

- Non-reference frames: no other frame depends on them. FFmpeg skips them with ``skip_frame``.
- All frames but the key frames, which depend on no other frame. We then do not give FFmpeg the other packets at all.

No frame is lost to the counters: every frame that is not decoded is still returned, in order, as ``Undecoded``.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av

from serve_app.types import Pixels
from serve_app.video.decoding import Decoding
from serve_app.video.pictures import Undecoded

TimedPixels = tuple[Callable[[], Pixels], float | None]  # (the pixels or an Undecoded, the frame's time in seconds)

_TOLERANCE = 1.01  # 30 frames at 29.97 frames per second are 1.001 s, which is close enough to 1 s
_KEY_INTERVALS = 2  # the number of short intervals after which only key frames are decoded
_MAX_KEY_INTERVAL_S = 12.0  # limits the packets that are kept in memory, and the time to decode them
_MEASURED_FRAMES = 25  # the frame interval is the mean over this number of frames
_MIN_SKIPPED = 5  # non-reference frames are skipped if the capture takes at most every fifth frame
_MAX_WAITING = 1000  # if more frames are missing, the decoder does not return timestamps that we can use


class SelectiveDecoder:
    """Decodes the frames of a video that a capture with a ``max_fps`` needs, and returns all frames in order.

    - If key frames are close enough that each interval ``1 / max_fps`` has one, it decodes only the key frames that the
      capture takes.
    - Otherwise, it decodes the reference frames, if the capture takes at most every fifth frame.
    - Otherwise, it decodes all frames.

    The intervals are measured, and measured again after every key frame. The packets since the last key frame are kept.
    If the next key frame is late, they are decoded, so that no frame that is due is lost.
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
        self._take_interval_s = _TOLERANCE / max_fps if max_fps else 0.0
        self._is_timed = max_fps is not None
        self._is_at_key_frames = False  # whether only key frames are decoded
        self._has_bad_key_frames = False  # whether a key frame could not be decoded without the frames before it
        self._has_bad_stamps = False  # whether the decoder returned a frame with a smaller timestamp than the last one
        self._has_rare_references = False  # whether a capture would wait too long for the next reference frame
        self._key_intervals_s: deque[float] = deque(maxlen=_KEY_INTERVALS)
        self._stamps: deque[int] = deque(maxlen=_MEASURED_FRAMES)  # of the latest packets, in decoding order
        self._key_pts: int | None = None  # of the last key frame
        self._group: list[Any] = []  # the packets since the last key frame, if only key frames are decoded
        # Decoding began at the frame with the timestamp ``_start_pts``. Earlier frames that follow it in decoding order
        # depend on frames that were not decoded. Frames up to ``_returned_pts`` have been returned already.
        self._start_pts = self._returned_pts = self._last_pts = -(1 << 63)
        # The frames that have not been returned yet: timestamp, number, and None if the decoder will return the frame.
        self._waiting: list[tuple[int, int, Undecoded | None]] = []
        self._number = 0

    def pictures(self, packet: Any) -> Iterator[TimedPixels]:
        """Yield the frames that a packet completes, in order of presentation.

        Process each frame before the next is requested. Raise FFmpegError if the packet cannot be decoded.
        """
        if not packet.size and packet.dts is None:  # the end of the video
            yield from self._end(packet)
            return
        if self._is_timed and (self._has_bad_stamps or len(self._waiting) > _MAX_WAITING):
            yield from self._decode_all_from_now()
        if not self._is_timed:
            yield from ((self._to_pixels(frame), frame.time) for frame in self._codec.decode(packet))
            return
        if packet.pts is None:  # for example the first packet of an RTSP camera
            yield from self._decode_untimed(packet)
            return
        self._stamps.append(packet.pts if packet.dts is None else packet.dts)
        if packet.is_keyframe:
            yield from self._begin_group(packet.pts)
        elif self._is_at_key_frames and self._is_late(packet.pts):
            yield from self._catch_up()
        if self._is_at_key_frames:
            self._group.append(packet)
            self._wait_for(packet.pts, self._lazily(packet) if packet.is_keyframe else Undecoded())
            yield from self._return_up_to(self._stamps[-1])
        else:
            yield from self._returned(self._send(packet))

    def _decode_untimed(self, packet: Any) -> Iterator[TimedPixels]:
        """Decode a packet that has no timestamp, and measure the video again after it."""
        if self._is_at_key_frames:
            yield from self._catch_up()
        self._key_pts = None
        self._key_intervals_s.clear()
        self._stamps.clear()
        self._codec.skip_frame = "DEFAULT"
        yield from self._returned(self._codec.decode(packet))

    def _begin_group(self, pts: int) -> Iterator[TimedPixels]:
        """Decide, at a key frame, whether to decode only key frames from now on."""
        if self._key_pts is not None:
            self._key_intervals_s.append(float((pts - self._key_pts) * self._time_base))
        self._key_pts, self._returned_pts = pts, -(1 << 63)
        if self._is_at_key_frames:
            yield from self._return_up_to(None)
            self._group.clear()
            if not self._may_use_key_frames():
                self._leave_key_frames(pts)
        elif self._may_use_key_frames():
            yield from self._drain()
            self._is_at_key_frames = True
            self._decoding.frames = "key_frames"
        else:
            self._start_pts = -(1 << 63)

    def _may_use_key_frames(self) -> bool:
        intervals_s = self._key_intervals_s
        longest_s = min(self._take_interval_s, _MAX_KEY_INTERVAL_S)
        is_measured = len(intervals_s) == _KEY_INTERVALS and min(intervals_s) > 0
        return is_measured and max(intervals_s) <= longest_s and not self._has_bad_key_frames

    def _is_late(self, pts: int) -> bool:
        """Return whether the next key frame is so late that the capture needs a frame before it."""
        if self._key_pts is None or self._has_bad_key_frames:
            return True
        passed_s = abs(pts - self._key_pts) * self._time_base
        return passed_s > min(self._take_interval_s, _MAX_KEY_INTERVAL_S)

    def _leave_key_frames(self, start_pts: int) -> None:
        self._is_at_key_frames = False
        self._start_pts = self._last_pts = start_pts
        self._decoding.frames = "all"

    def _catch_up(self) -> Iterator[TimedPixels]:
        """Decode the packets since the last key frame, because the following frames depend on them."""
        yield from self._return_up_to(None)
        group, self._group = self._group, []
        self._leave_key_frames(group[0].pts)
        self._returned_pts = max(packet.pts for packet in group)
        for packet in group:
            try:
                yield from self._returned(self._send(packet))
            except av.FFmpegError:
                continue
        self._waiting.clear()

    def _lazily(self, packet: Any) -> Undecoded:
        def decode() -> Callable[[], Pixels] | None:
            try:
                # The decoder returns the frame at once, instead of waiting for later frames, because it is told that
                # the video ends.
                frames = self._codec.decode(packet) + self._codec.decode(None)
            except av.FFmpegError:
                frames = []
            self._codec.flush_buffers()
            self._has_bad_key_frames |= not frames
            return self._to_pixels(frames[0]) if frames else None

        return Undecoded(decode)

    def _send(self, packet: Any) -> list[Any]:
        """Decode a packet, and return the frames that the decoder returns, which may belong to earlier packets."""
        if packet.pts < self._start_pts:
            self._wait_for(packet.pts, Undecoded())
            return []
        is_skipping = self._may_skip()
        self._codec.skip_frame = "NONREF" if is_skipping else "DEFAULT"
        if not is_skipping:
            self._decoding.frames = "all"
        waiting = self._wait_for(packet.pts, Undecoded() if is_skipping else None)
        try:
            frames: list[Any] = self._codec.decode(packet)
        except av.FFmpegError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                heapq.heapify(self._waiting)
            raise
        return frames

    def _may_skip(self) -> bool:
        """Return whether to skip the non-reference frames."""
        if self._has_rare_references or len(self._stamps) < _MEASURED_FRAMES:
            return False
        frame_s = (self._stamps[-1] - self._stamps[0]) * self._time_base / (_MEASURED_FRAMES - 1)
        return 0 < _MIN_SKIPPED * frame_s <= self._take_interval_s

    def _wait_for(self, pts: int, undecoded: Undecoded | None) -> tuple[int, int, Undecoded | None]:
        self._number += 1
        waiting = (pts, self._number, undecoded)
        heapq.heappush(self._waiting, waiting)
        return waiting

    def _returned(self, frames: Iterable[Any]) -> Iterator[TimedPixels]:
        """Yield frames that the decoder has returned, each after the skipped frames before it."""
        for frame in frames:
            pts = frame.pts
            if pts is None:
                yield self._to_pixels(frame), None
                continue
            if pts <= self._returned_pts:
                self._last_pts = pts
                continue
            has_skipped = False
            while self._waiting and self._waiting[0][0] < pts:
                waiting_pts, _, undecoded = heapq.heappop(self._waiting)
                if undecoded:
                    has_skipped = True
                    yield undecoded, self._time_s(waiting_pts)
            if self._waiting and self._waiting[0][0] == pts:
                heapq.heappop(self._waiting)
            if has_skipped and self._codec.skip_frame == "NONREF":
                self._decoding.frames = "reference_frames"
                self._has_rare_references |= (pts - self._last_pts) * self._time_base > self._take_interval_s
            self._has_bad_stamps |= pts < self._last_pts
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
        self._codec.skip_frame = "DEFAULT"

    def _end(self, packet: Any) -> Iterator[TimedPixels]:
        if not self._is_timed:
            yield from ((self._to_pixels(frame), frame.time) for frame in self._codec.decode(packet))
            return
        if not self._is_at_key_frames:
            yield from self._returned(self._codec.decode(packet))
        yield from self._return_up_to(None)

    def _decode_all_from_now(self) -> Iterator[TimedPixels]:
        """Give up the selection, because the packets have wrong timestamps, as in AVI."""
        if self._is_at_key_frames:
            yield from self._catch_up()
        yield from self._return_up_to(None)
        self._is_timed = False
        self._codec.skip_frame = "DEFAULT"
        self._decoding.frames = "all"

    def _time_s(self, pts: int) -> float:
        return pts * self._time_base.numerator / self._time_base.denominator

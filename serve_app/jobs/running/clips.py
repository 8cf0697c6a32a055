"""The work on a unit that is a clip of a video."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import islice

from serve_app.detections import Detections
from serve_app.errors import DeadlineExceeded, ModelChanged, NotFound, ServeAppError
from serve_app.images.fitting import place
from serve_app.ipc.frame_pool import Slot
from serve_app.jobs.limits import InFlight
from serve_app.jobs.running.pictures import render, show_pixels
from serve_app.jobs.running.tally import is_temporary
from serve_app.jobs.running.unit import RETRY_PAUSE_S, RunningUnit, Shared, internal_error, together
from serve_app.jobs.sources import Source, UnreadableItem
from serve_app.jobs.units import CLIP_ITEMS, Clip, Item
from serve_app.types import Answer, DetectOptions, Letterbox, ModelInfo, Pixels


class _Frames:
    """The frames of a clip. Several tasks take them, one task at a time."""

    def __init__(self, source: Source, clip: Clip, max_pixels: int) -> None:
        self._open = partial(source.frames, clip)
        self._frames: Iterator[tuple[float, Pixels]] | None = None
        self.item = Item(clip.name)  # all frames have the video's name
        self.turn = asyncio.Lock()
        self.taken = 0
        self.has_ended = False
        self.frame_bytes = 3 * max_pixels  # the size of a frame; until one is decoded, the largest allowed size

    def take(self, model: ModelInfo, slot: Slot) -> tuple[float, Pixels, Letterbox] | None:
        """Decode the next frame, and fit it into the slot. Return None at the end. This blocks."""
        if self._frames is None:
            self._frames = self._open()
        frame = next(self._frames, None)
        if frame is None:
            return None
        time_s, pixels = frame
        return time_s, pixels, place(pixels, model.shapes, slot.frame, model.fitting)

    def close(self) -> None:
        _close(self._frames)


async def run_clip(work: RunningUnit, shared: Shared, clip: Clip) -> None:
    """Work on the frames of a clip. The clip is begun again if the model changes meanwhile.

    A clip may take longer than other units, but it is deferred if no frame is answered for the time of a unit.
    """
    while True:
        frames = _Frames(work.job.source, clip, shared.max_pixels)
        work.tally.clear()
        work.expires_at_s = asyncio.get_running_loop().time() + shared.unit_time_s
        try:
            async with asyncio.timeout_at(work.expires_at_s) as limit, together() as group:
                for _ in range(shared.slots):
                    group.create_task(_run_frames(work, shared, frames, limit))
            return None
        except ModelChanged:
            await work.model()  # raises ModelChanged if the job must not use the new model
        except TimeoutError:
            raise DeadlineExceeded(f"no frame was answered in {shared.unit_time_s:g} s") from None
        except ServeAppError as exc:  # for example, if the model lacks a requested class
            if is_temporary(exc):
                raise
            return work.tally.note_error(work.unit.first + frames.taken, frames.item, exc)
        finally:
            await shared.video_threads.run(frames.close)
        await asyncio.sleep(RETRY_PAUSE_S)


async def _run_frames(work: RunningUnit, shared: Shared, frames: _Frames, limit: asyncio.Timeout) -> None:
    while await _run_frame(work, shared, frames):
        work.expires_at_s = asyncio.get_running_loop().time() + shared.unit_time_s
        if not limit.expired():
            limit.reschedule(work.expires_at_s)


async def _run_frame(work: RunningUnit, shared: Shared, frames: _Frames) -> bool:
    """Take the next frame, and note its result. Return False if there is none.

    A frame is decoded only when the Detectors may get it at once, so no frames wait in memory.
    """
    async with AsyncExitStack() as stack:
        async with frames.turn:
            if frames.has_ended:
                return False
            held = None
            if work.job.pictures is not None:  # the pixels are kept until the boxes are known
                held = await stack.enter_async_context(shared.budget.hold(frames.frame_bytes))
            in_flight = await stack.enter_async_context(AsyncExitStack())
            place = await in_flight.enter_async_context(work.window.place())
            model, options = await work.model()
            slot = in_flight.enter_context(work.detector.pool.lease())
            frame = await _take(work, shared, frames, model, slot)
            if frame is None:
                frames.has_ended = True
                return False
            number = work.unit.first + frames.taken
            frames.taken += 1
        time_s, pixels, fitted = frame
        kept = None
        if held is not None:
            kept = pixels
            frames.frame_bytes = pixels.nbytes
            held.shrink(pixels.nbytes)
        del frame, pixels
        try:
            answer = await _ask(work, place, slot, fitted, model, options)
            await in_flight.aclose()
            if kept is not None:
                await _write_pictures(work, shared, number, kept, answer.detections)
        except ServeAppError as exc:
            if is_temporary(exc):
                raise
            work.tally.note_error(number, frames.item, exc)
        except Exception as exc:
            work.tally.note_error(number, frames.item, internal_error(work.unit, number, exc))
        else:
            work.tally.add(number, frames.item, answer, model, time_s)
    return True


async def _ask(
    work: RunningUnit, place: InFlight, slot: Slot, fitted: Letterbox, model: ModelInfo, options: DetectOptions
) -> Answer:
    """Return the Detectors' answer. While they are busy, the frame stays in its slot."""
    while True:
        answer = await work.ask(place, slot, fitted, model, options)
        if answer is not None:
            return answer
        await asyncio.sleep(RETRY_PAUSE_S)


async def _take(
    work: RunningUnit, shared: Shared, frames: _Frames, model: ModelInfo, slot: Slot
) -> tuple[float, Pixels, Letterbox] | None:
    """Take the next frame. If the video cannot be decoded further, note that, and return None."""
    try:
        if frames.taken == CLIP_ITEMS - 1:
            raise UnreadableItem(f"a clip of the video has more than {CLIP_ITEMS - 1} frames")
        return await shared.video_threads.run(lambda: frames.take(model, slot))
    except ServeAppError as exc:
        error = exc
    except Exception as exc:
        error = internal_error(work.unit, work.unit.first + frames.taken, exc)
    if is_temporary(error):
        raise error
    work.tally.note_error(work.unit.first + frames.taken, frames.item, error)
    return None


async def _write_pictures(
    work: RunningUnit, shared: Shared, number: int, pixels: Pixels, detections: Detections
) -> None:
    writer = work.job.pictures
    assert writer is not None
    for name, jpeg in await shared.threads.run(lambda: render(pixels, detections, number, writer.wanted)):
        await writer.put(name, jpeg)


def show_frame(source: Source, clip: Clip, index: int, detections: Detections | None) -> bytes:
    """Return one frame of a clip as a JPEG, with the boxes of ``detections`` drawn. This blocks."""
    frames = source.frames(clip)
    try:
        frame = next(islice(frames, index, None), None) if index >= 0 else None
    finally:
        _close(frames)
    if frame is None:
        raise NotFound(f"the clip has no frame {index}")
    return show_pixels(frame[1], detections)


def _close(frames: Iterator[tuple[float, Pixels]] | None) -> None:
    close: Callable[[], None] | None = getattr(frames, "close", None)  # a generator has this method
    if close is not None:
        close()

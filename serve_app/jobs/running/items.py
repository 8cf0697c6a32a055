"""The work on a unit of images."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from serve_app.detections import Detections
from serve_app.errors import (
    DeadlineExceeded,
    InvalidParameter,
    ModelChanged,
    ServeAppError,
    Unavailable,
    Unfetchable,
    UrlUnavailable,
)
from serve_app.images.prepare import prepare, prepare_new
from serve_app.ipc.frame_pool import Slot
from serve_app.jobs.outputs import PictureKind, PictureWriter
from serve_app.jobs.running.pictures import render_encoded
from serve_app.jobs.running.unit import RETRY_PAUSE_S, RunningUnit, Shared, internal_error, together
from serve_app.jobs.units import Item
from serve_app.types import Answer, Letterbox, ModelInfo

_READ_TIME_S = 25.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5, 300  # before an image is read again; each pause is four times as long


async def run_items(work: RunningUnit, shared: Shared) -> None:
    """Work on all items of a unit at the same time, within the shared limits."""
    try:
        await work.model()  # before anything is read, because the Detectors may be down for long
    except InvalidParameter as exc:  # the model lacks a requested class
        work.tally.note_error_of_rest(exc)
        return
    async with together() as group:
        for number, item in work.unit.wanted():
            group.create_task(_run_item(work, shared, number, item))


async def _run_item(work: RunningUnit, shared: Shared, number: int, item: Item) -> None:
    """Work on one item, and note its result. An error of the item does not affect other items."""
    try:
        async with asyncio.timeout_at(work.expires_at_s) as limit:
            answer, model = await _answer(work, shared, number, item, limit)
    except ModelChanged:
        raise
    except TimeoutError:
        work.tally.note_error(number, item, DeadlineExceeded(f"the unit was not done in {shared.unit_time_s:g} s"))
    except ServeAppError as exc:
        work.tally.note_error(number, item, exc)
    except Exception as exc:
        work.tally.note_error(number, item, internal_error(work.unit, number, exc))
    else:
        work.tally.add(number, item, answer, model)


async def _answer(
    work: RunningUnit, shared: Shared, number: int, item: Item, limit: asyncio.Timeout
) -> tuple[Answer, ModelInfo]:
    async with shared.budget.hold(expected_bytes(item, shared)) as held:
        data = await _read(work, shared, number, item)
        held.shrink(len(data))
        answer, model = await _detect(work, shared, data)
        if work.job.pictures is not None:
            async with work.job.drawing:
                files = await _render(work, shared, number, data, answer.detections, work.job.pictures.wanted)
                held.add(sum(len(jpeg) for _, jpeg in files))
                await _write_pictures(work.job.pictures, shared, files, limit)
    return answer, model


def expected_bytes(item: Item, shared: Shared) -> int:
    """Return how many bytes an item may have. Larger items are refused when they are read."""
    return shared.max_body_bytes if item.size_bytes is None else min(item.size_bytes, shared.max_body_bytes)


async def _read(work: RunningUnit, shared: Shared, number: int, item: Item) -> bytes:
    """Read an item. If its source does not answer, defer the item for a growing pause, or fail it in the last try."""
    unit, tries = work.unit, shared.tries
    try:
        async with shared.reads, asyncio.timeout(_READ_TIME_S):
            data = await work.job.source.read(item)
    except TimeoutError:
        problem = f"the source sent no image in {_READ_TIME_S:g} s"
    except UrlUnavailable as exc:
        problem = exc.detail
    else:
        tries.forget(unit.job_id, number)
        return data
    count = tries.count_failure(unit.job_id, number, unit.attempt)
    if count >= work.spec.attempts:  # without this limit, one source that never answers would keep the job from ending
        tries.forget(unit.job_id, number)
        raise Unfetchable(f"{problem} (attempt {count} of {work.spec.attempts})")
    error = Unavailable(problem)
    error.retry_after_s = min(_FIRST_PAUSE_S * 4 ** (count - 1), _LONGEST_PAUSE_S)
    raise error


async def _detect(work: RunningUnit, shared: Shared, data: bytes) -> tuple[Answer, ModelInfo]:
    """Decode an image into a slot, and return its detections and the model. Retry while the Detectors are busy."""
    while True:
        async with work.window.place() as place:
            model, options = await work.model()
            with work.detector.pool.lease() as slot:
                fitted = await _prepare(work, shared, data, model, slot)
                try:
                    answer = await work.ask(place, slot, fitted, model, options)
                except ModelChanged:  # during a roll-out; retry with the new model
                    answer = None
            if answer is not None:
                return answer, model
        await asyncio.sleep(RETRY_PAUSE_S)


async def _prepare(work: RunningUnit, shared: Shared, data: bytes, model: ModelInfo, slot: Slot) -> Letterbox:
    picture = data, shared.max_pixels, shared.decoding, model.shapes
    if not work.unit.is_suspect:
        return (await shared.threads.run(lambda: prepare(*picture, slot.frame, model.fitting)))[0]
    fitted, _, frame = await shared.quarantine.run(prepare_new, *picture, model.fitting)
    slot.frame(fitted.input_shape)[:] = frame
    return fitted


async def _render(
    work: RunningUnit, shared: Shared, number: int, data: bytes, detections: Detections, wanted: Collection[PictureKind]
) -> list[tuple[str, bytes]]:
    """Return the names and the bytes of an item's annotated image and of its crops.

    The image is decoded a second time. Keeping the pixels of all images until their boxes are known would take far more
    memory.
    """
    arguments = data, shared.max_pixels, detections, number, wanted
    if work.unit.is_suspect:
        return await shared.quarantine.run(render_encoded, *arguments)
    return await shared.threads.run(lambda: render_encoded(*arguments))


async def _write_pictures(
    writer: PictureWriter, shared: Shared, files: list[tuple[str, bytes]], limit: asyncio.Timeout
) -> None:
    """Write the annotated image and the crops of an item. If the item is repeated, they are overwritten.

    An image may have hundreds of crops, so each that is written postpones the ``limit``. Otherwise, an item that takes
    longer than a unit would be deferred again and again.
    """

    async def put(name: str, jpeg: bytes) -> None:
        await writer.put(name, jpeg)
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time() + shared.unit_time_s)

    async with together() as group:  # the writer limits how many are written at the same time
        for name, jpeg in files:
            group.create_task(put(name, jpeg))

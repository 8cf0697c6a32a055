"""The runner, which works on units: it reads, decodes, and calls the Detector.

Several units run at the same time, so that the bytes of one are read while the images of another are in the Detectors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from serve_app.config import AppArgs
from serve_app.errors import ModelChanged, NotFound, ServeAppError, Unavailable
from serve_app.images.threads import DecodeThreads
from serve_app.ipc.quarantine import Quarantine
from serve_app.jobs.limits import ByteBudget, Window
from serve_app.jobs.outputs import OutputUnwritable
from serve_app.jobs.running.clips import run_clip, show_frame
from serve_app.jobs.running.items import expected_bytes, run_items
from serve_app.jobs.running.opened import Opener, OpenJobs
from serve_app.jobs.running.pictures import show
from serve_app.jobs.running.stored import detections_of
from serve_app.jobs.running.tally import Tally
from serve_app.jobs.running.tries import Tries
from serve_app.jobs.running.unit import JobDetector, RunningUnit, Shared
from serve_app.jobs.sources import MissingItem, UnreadableItem, reopen_source
from serve_app.jobs.units import Unit, UnitResult
from serve_app.schemas.jobs import JobSpec

_UNIT_TIME_S = 40.0  # after this time, the rest of a unit is deferred; a replica that is drained has 60 s
_MAX_READS = 16
_NICENESS = 10  # of decoding threads
_DECODE_TIME_LIMIT_S = 60.0  # long, because these threads have a low priority
_VIDEO_TIME_LIMIT_S = 600.0  # for one frame, before which the video may have to be fetched


class Runner:
    """Works on units. Use it from one event loop only."""

    def __init__(
        self,
        detectors: Mapping[str, JobDetector],
        args: AppArgs,
        folder: Path,
        *,
        opener: Opener = reopen_source,
        unit_time_s: float = _UNIT_TIME_S,
    ) -> None:
        """Set the detector of each model, and the folder in which each job has its own folder. Connect to nothing."""
        threads, first = args.jobs.decode_threads, 2 * args.batcher.max_batch_size
        self._detectors = {model: (detector, Window(first, args.jobs.slots)) for model, detector in detectors.items()}
        self._jobs = OpenJobs(args, folder, opener)
        self._shared = Shared(
            budget=ByteBudget(args.jobs.max_memory_mib << 20),
            reads=asyncio.Semaphore(_MAX_READS),
            threads=DecodeThreads(threads, time_limit_s=_DECODE_TIME_LIMIT_S, niceness=_NICENESS),
            video_threads=DecodeThreads(threads, time_limit_s=_VIDEO_TIME_LIMIT_S, niceness=_NICENESS),
            quarantine=Quarantine(_DECODE_TIME_LIMIT_S),
            tries=Tries(),
            max_pixels=args.limits.max_pixels,
            decoding=args.preprocessor.decode,
            max_body_bytes=args.limits.max_body_mib << 20,
            slots=args.jobs.slots,
            unit_time_s=unit_time_s,
        )

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        """Work on a unit: see ``deployments.stubs.JobRunnerStub.run``."""
        tally = Tally(unit)
        expires_at_s = asyncio.get_running_loop().time() + self._shared.unit_time_s
        try:
            if spec.detect.model not in self._detectors:  # while a roll-out adds or removes the model
                raise Unavailable(f"model {spec.detect.model!r} is not currently deployed")
            detector, window = self._detectors[spec.detect.model]
            async with self._jobs.use(spec) as job:
                work = RunningUnit(unit, spec, model_version, detector, window, job, tally, expires_at_s)
                if unit.clip is not None:
                    await run_clip(work, self._shared, unit.clip)
                else:
                    await run_items(work, self._shared)
        except (ModelChanged, OutputUnwritable):
            raise
        except (MissingItem, UnreadableItem) as exc:  # the source itself is gone, so none of its items can be read
            tally.note_error_of_rest(exc)
        except ServeAppError as exc:
            tally.defer_rest(exc)
        return tally.result()

    async def picture(self, unit: Unit, spec: JobSpec, item: int, result: str | None) -> bytes:
        """Return the image of an item: see ``deployments.stubs.JobRunnerStub.picture``."""
        shared, index = self._shared, item - unit.first
        detections = None if result is None else await shared.threads.run(partial(detections_of, result))
        async with self._jobs.use(spec) as job:
            if unit.clip is not None:
                clip = unit.clip
                return await shared.video_threads.run(lambda: show_frame(job.source, clip, index, detections))
            if not 0 <= index < len(unit.items):
                raise NotFound(f"the unit has no item {item}")
            async with shared.budget.hold(expected_bytes(unit.items[index], shared)):
                data = await job.source.read(unit.items[index])
                if unit.is_suspect:
                    return await shared.quarantine.run(show, data, shared.max_pixels, detections)
                return await shared.threads.run(lambda: show(data, shared.max_pixels, detections))

    async def check(self) -> None:
        """Kill this process if a decoder hangs, and close jobs that are no longer used. Call this every second."""
        await self._shared.threads.check()
        await self._shared.video_threads.check()
        await self._jobs.close_unused()

    async def close(self) -> None:
        """Close all sources, threads and pools."""
        await self._jobs.close()
        await self._shared.quarantine.close()
        self._shared.threads.close()
        self._shared.video_threads.close()
        for detector, _ in self._detectors.values():
            detector.close()

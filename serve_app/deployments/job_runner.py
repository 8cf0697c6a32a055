"""The JobRunner: the deployment that works on the units of batch jobs."""

from __future__ import annotations

import os
from functools import partial

import cv2
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config import AppArgs
from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.drift_monitor import reporter_to
from serve_app.deployments.handles import Replicas, serves
from serve_app.deployments.replica_logs import log_as_serve
from serve_app.deployments.stubs import JobRunnerStub
from serve_app.jobs.runner import Runner
from serve_app.jobs.units import Unit, UnitResult
from serve_app.schemas.jobs import JobSpec

_NICENESS = 10


@serves(JobRunnerStub)
class JobRunner:
    """A replica that reads and decodes the images of jobs, and calls the Detector. It connects when a unit arrives."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, detectors: dict[str, DeploymentHandle], args: AppArgs, drift_monitor: DeploymentHandle
    ) -> None:
        """Prepare the runner. ``detectors`` maps each model's name to the handle of its Detector deployment."""
        log_as_serve()
        # The engine and the replicas that answer clients use the same cores, and a job can wait. The threads that the
        # runner starts later inherit this.
        os.nice(_NICENESS)
        cv2.setNumThreads(1)  # the runner's own threads decode several images in parallel
        self._reporter = reporter_to(Replicas(drift_monitor), args)
        clients = {
            model: DetectorClient(
                detector, slots=args.jobs.slots, traffic="job", observe=partial(self._reporter.observe, model)
            )
            for model, detector in detectors.items()
        }
        folder = args.streams.state_folder(serve.get_replica_context().app_name) / "jobs"
        self._runner = Runner(clients, args, folder)

    async def run(self, unit: Unit, spec: JobSpec, model_version: str | None) -> UnitResult:
        """Work on a unit: see ``JobRunnerStub.run``."""
        return await self._runner.run(unit, spec, model_version)

    async def picture(self, unit: Unit, spec: JobSpec, item: int, result: str | None) -> bytes:
        """Return the image of an item: see ``JobRunnerStub.picture``."""
        return await self._runner.picture(unit, spec, item, result)

    async def check_health(self) -> None:
        """Kill this replica if a decoder hangs. Serve calls this method every second."""
        await self._runner.check()

    async def __del__(self) -> None:
        try:
            await self._reporter.close()
        finally:
            await self._runner.close()

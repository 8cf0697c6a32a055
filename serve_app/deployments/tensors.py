"""The path of model inputs that clients prepare themselves: from the Ingress straight into the Detectors' slots."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from serve_app.deployments.detector_client import DetectorClient
from serve_app.deployments.model_queue import ModelQueue
from serve_app.errors import InvalidParameter
from serve_app.images.planes import write_model_input
from serve_app.images.threads import DecodeThreads
from serve_app.types import InputShape, ModelInfo

_SLOTS = 16  # for each model; the memory is allocated when the first client asks for the model


class Tensors:
    """Writes model inputs into slots of the Ingress, so that their pixels cross neither Ray nor a socket."""

    def __init__(self, detectors: dict[str, DeploymentHandle], threads: int) -> None:
        """Prepare the calls of each model's Detectors. ``threads``: see ``DecodeThreads``."""
        self._queues = {
            model: ModelQueue(DetectorClient(handle, slots=_SLOTS, traffic="interactive"), _SLOTS)
            for model, handle in detectors.items()
        }
        self._threads = DecodeThreads(threads)

    async def describe(self, model: str) -> ModelInfo:
        """Return the model that the Detectors serve now: see ``Backend.describe``."""
        return _checked((await self._queues[model].detector.fetch_state()).model)

    async def infer(
        self, model: str, planes: NDArray[np.floating], *, tenant: str, time_left_s: float
    ) -> tuple[NDArray[np.float32], str]:
        """Return the tensor for one model input, and the version of the weights: see ``Backend.infer``."""
        queue, expires_at_s = self._queues[model], time.monotonic() + time_left_s
        work = partial(self._infer, queue.detector, planes, tenant, expires_at_s)
        answer, _ = await queue.run(work, tenant=tenant, expires_at_s=expires_at_s)
        return answer

    async def _infer(
        self, detector: DetectorClient, planes: NDArray[np.floating], tenant: str, expires_at_s: float
    ) -> tuple[NDArray[np.float32], str]:
        model = _checked(await detector.model(expires_at_s - time.monotonic()))
        shape = InputShape(*planes.shape[1:])
        if shape not in model.shapes:
            known = ", ".join(map(str, model.shapes))
            raise InvalidParameter(
                f"inputs: {model.name} takes no image of {shape} (height x width); use one of {known}"
            )
        with detector.pool.lease() as slot:
            await self._threads.run(lambda: write_model_input(planes, slot.frame(shape)))
            left_s = expires_at_s - time.monotonic()
            tensor = await detector.infer(slot, shape, model, time_left_s=left_s, tenant=tenant)
        return tensor, model.engine.version

    def close(self) -> None:
        """Stop the threads, and free the memory of the slots."""
        self._threads.close()
        for queue in self._queues.values():
            queue.detector.close()


def _checked(model: ModelInfo) -> ModelInfo:
    """Return the model. Raise InvalidParameter if clients cannot turn its raw output into results by themselves."""
    if model.task == "segment":
        raise InvalidParameter(
            f"{model.name} finds masks, and the prototypes that a client would need for them are not sent; send the "
            "encoded image to the model whose name ends in -image, or to POST /detect"
        )
    return model

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.config import DetectorArgs
from serve_app.errors import ModelError
from serve_app.inference.model_runner import ModelRunner
from serve_app.inference.rollout import Outcome, Rollout
from serve_app.types import DetectorState

pytestmark = pytest.mark.anyio

NULL = DetectorArgs(model={"engine": "null"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Loader:
    """A loader of engines that find nothing.

    If a model's input size is in ``held``, loading the model waits for an event. If the input size is in ``broken``,
    loading the model fails.
    """

    def __init__(self) -> None:
        self.held: dict[int, asyncio.Event] = {}
        self.broken: dict[int, Exception] = {}
        self.outcomes: list[Outcome] = []
        self.cancelled: list[int] = []

    async def load(self, args: DetectorArgs) -> ModelRunner:
        side_px = args.model.image_size_px
        try:
            if side_px in self.held:
                await self.held[side_px].wait()
        except asyncio.CancelledError:
            self.cancelled.append(side_px)
            raise
        if side_px in self.broken:
            raise self.broken[side_px]
        return await ModelRunner.load(args, has_gpu=False, on_batch=lambda replies: None)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def rollout(loader: Loader) -> AsyncIterator[Rollout]:
    """A roll-out that has not loaded a model yet."""
    made = Rollout(NULL, loader.load, loader.outcomes.append)
    yield made
    await made.close()


async def change(rollout: Rollout, user_config: Any) -> DetectorState:
    """Apply a change and return the state after it."""
    await rollout.configure(user_config)
    while rollout.state().is_changing:
        await asyncio.sleep(0.01)
    return rollout.state()


def of_size(side_px: int, **sections: Any) -> dict[str, Any]:
    return {"model": {"image_size_px": side_px}, **sections}


async def test_the_current_model_serves_while_another_one_is_loading(rollout: Rollout, loader: Loader) -> None:
    before = (await change(rollout, None)).model
    loader.held[320] = asyncio.Event()
    await rollout.configure(of_size(320))
    assert rollout.state() == DetectorState(before, is_changing=True)
    loader.held[320].set()
    after = await change(rollout, of_size(320))
    assert (before.input_shape, after.model.input_shape) == ((640, 640), (320, 320))
    assert loader.outcomes == ["made"]


async def test_a_model_that_was_replaced_frees_its_memory(rollout: Rollout) -> None:
    before = (await change(rollout, None)).model
    engine = weakref.ref(rollout.runner._engine)
    gc.freeze()  # as Serve does after a replica has started
    await change(rollout, of_size(320, detect={"confidence": 0.25}))
    assert rollout.state().model.defaults.confidence == 0.25
    while rollout._retiring:
        await asyncio.sleep(0.01)
    assert engine() is None
    assert (await change(rollout, None)).model == before
    gc.unfreeze()


async def test_the_drop_counters_continue_with_the_next_model(rollout: Rollout) -> None:
    await change(rollout, None)
    rollout.runner.batcher.drops["stream"]["expired"] = 7
    await change(rollout, of_size(320))
    assert rollout.runner.batcher.drops["stream"]["expired"] == 7


async def test_other_thresholds_keep_the_engine(rollout: Rollout) -> None:
    await change(rollout, None)
    runner = rollout.runner
    state = await change(rollout, {"detect": {"confidence": 0.3}, "batcher": {"job_weight": 2}})
    assert (rollout.runner is runner, state.model.defaults.confidence) == (True, 0.3)


async def test_the_newest_change_wins_over_one_that_is_still_loading(rollout: Rollout, loader: Loader) -> None:
    await change(rollout, None)
    loader.held[320] = asyncio.Event()
    await rollout.configure(of_size(320))
    await asyncio.sleep(0)
    assert (await change(rollout, of_size(96))).model.input_shape == (96, 96)
    assert (loader.cancelled, loader.outcomes) == ([320], ["made"])


async def test_the_same_user_config_again_is_no_change(rollout: Rollout, loader: Loader) -> None:
    """Serve sends the same ``user_config`` again when it changes the rank of a replica."""
    await change(rollout, {"detect": {"confidence": 0.3}})
    await rollout.configure({"detect": {"confidence": 0.3}})
    assert not rollout.state().is_changing
    assert loader.outcomes == []


async def test_a_replica_that_starts_with_a_refused_change_serves_its_arguments(rollout: Rollout) -> None:
    state = await change(rollout, {"model": {"engine": "openvino", "weights": "nowhere.onnx"}})
    assert (state.model.name, "there is no nowhere.onnx" in state.refused_change) == ("null", True)
    assert not (await change(rollout, None)).refused_change


async def test_a_replica_that_cannot_load_its_first_model_does_not_start(loader: Loader) -> None:
    loader.broken[640] = ModelError("there is no model")
    with pytest.raises(ModelError):
        await Rollout(NULL, loader.load, loader.outcomes.append).configure(None)


@pytest.mark.parametrize("is_new", [False, True])
async def test_an_unexpected_error_in_a_change_is_logged_and_not_shown(
    rollout: Rollout, loader: Loader, is_new: bool
) -> None:
    """If ``is_new`` is true, the change is in the first ``user_config`` of a new replica."""
    version = "" if is_new else (await change(rollout, None)).model.version
    loader.broken[96] = RuntimeError("CUDA out of memory at 0x7f")
    state = await change(rollout, of_size(96))
    assert state.model.version == (version or (await change(rollout, None)).model.version)
    assert state.refused_change == "an internal error: see the log"


@pytest.mark.parametrize(
    ("user_config", "reason"),
    [
        ({"model": {"engine": "openvino", "weights": "/nowhere/at/all.onnx"}}, "model.weights: there is no all.onnx"),
        ({"model": {"engine": "openvino", "weights": "/my models/all.onnx"}}, "^model.weights: there is no all.onnx"),
        ({"model": {"engine": "openvino", "weights": "/a b/c.onnx: fp16/fp32"}}, "there is no c.onnx: fp16/fp32"),
        ({"model": {"wights": "a.pt"}}, r"user_config\.model\.wights: .* did you mean weights\?"),
        ({"limits": {"max_body_mib": 1}}, r"user_config\.limits: .* use model, detect, batcher"),
        ({"batcher": {"max_queue_size": 5}}, "max_queue_size cannot change"),
        (["model"], "with the sections"),
    ],
)
async def test_a_change_that_fails_keeps_the_model_and_says_why(
    rollout: Rollout, loader: Loader, user_config: Any, reason: str
) -> None:
    before = await change(rollout, None)
    after = await change(rollout, user_config)
    assert after.model == before.model
    assert re.search(reason, after.refused_change)
    assert loader.outcomes == ["refused"]
    assert not (await change(rollout, {"detect": {"confidence": 0.3}})).refused_change


async def test_a_hung_engine_is_reported_even_after_its_model_was_replaced(rollout: Rollout) -> None:
    await change(rollout, None)
    retired = rollout.runner
    retired._hung_after_s = -1.0
    assert rollout.is_hung
    rollout._retiring[retired] = asyncio.create_task(asyncio.sleep(0))
    rollout._runner = await ModelRunner.load(NULL, has_gpu=False, on_batch=lambda replies: None)
    assert rollout.is_hung
    await retired.close()

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.config import JpegDecoding
from serve_app.errors import (
    DeadlineExceeded,
    ModelChanged,
    NoSpace,
    Overloaded,
    PoisonPicture,
    Unavailable,
)
from serve_app.images.drawing import encode_jpeg
from serve_app.images.prepare import prepare_new
from serve_app.types import Letterbox, ModelInfo
from tests.support.job_runners import WIDTH_PX, Bench, bench, model_info, number_of, parsed

pytestmark = pytest.mark.anyio


async def test_each_item_has_its_own_result_in_order(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        result = await made.run(made.unit(9))
        assert [number for number, _ in result.results] == list(range(100, 109))
        for number, line in parsed(result).items():
            assert (line["item"], line["name"], line["job_id"]) == (number, f"{number - 100}.png", "night")
            assert line["image"] == {"width": WIDTH_PX + number - 100, "height": 16}
            assert [found["label"] for found in line["detections"]] == ["dog"]
        assert (result.job_id, result.number, result.attempt) == ("night", 3, 1)
        assert (result.failed, result.deferred) == ((), None)
        assert (result.detections, result.models) == ({"dog": 9}, {"fake@v1": 9})
        assert made.detector.tenants == {"night"}


@pytest.mark.parametrize("is_suspect", [False, True])
@pytest.mark.parametrize("decoding", ["reduced", "exact"])
async def test_images_are_decoded_as_the_settings_say(
    decoding: JpegDecoding, is_suspect: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_APP_DECODE", decoding)
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    async with bench(tmp_path) as made:
        unit = made.unit(1, is_suspect=is_suspect)
        (made.source.folder / unit.items[0].name).write_bytes(data)
        result = await made.run(unit)
        assert parsed(result)[100]["image"] == {"width": 256, "height": 256}
        _, _, expected = prepare_new(data, 256 * 256, decoding, made.detector.info.shapes)
        with made.detector.pool.lease() as slot:  # the slot that was released last
            assert np.array_equal(slot.frame(made.detector.info.shapes[0]), expected)


async def test_results_are_in_order_even_if_the_answers_are_not(tmp_path: Path) -> None:
    second_answered = asyncio.Event()

    async def answer(fitted: Letterbox) -> None:
        if number_of(fitted) == 0:
            await second_answered.wait()
        else:
            second_answered.set()

    async with bench(tmp_path) as made:
        made.detector.before = answer
        for unit in (made.unit(2), made.clip()):
            second_answered.clear()
            result = await made.run(unit)
            assert [number for number, _ in result.results] == sorted(parsed(result))
            assert {number - 100: line["image"]["width"] - WIDTH_PX for number, line in parsed(result).items()} == {
                index: index for index in range(len(result.results))
            }


async def test_a_result_has_neither_times_nor_empty_fields(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        unit = made.unit(1)
        fields = {"job_id", "item", "name", "count", "detections", "image", "model"}
        assert parsed(await made.run(unit))[100].keys() == fields
        named = replace(unit, items=(replace(unit.items[0], id="mine"),))
        assert parsed(await made.run(named))[100].keys() == fields | {"id"}


async def test_a_unit_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        unit = made.unit(7)
        assert (await made.run(unit)).results == (await made.run(unit)).results


async def test_only_items_without_a_result_are_worked_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        result = await made.run(made.unit(5, todo=(101, 103)))
        assert sorted(made.source.reads) == ["1.png", "3.png"]
        assert [number for number, _ in result.results] == [101, 103]


async def test_a_bad_image_does_not_affect_its_unit(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        unit = made.unit(6)
        png = (made.source.folder / "1.png").read_bytes()
        (made.source.folder / "1.png").write_bytes(png[: len(png) // 2])
        (made.source.folder / "2.png").write_bytes(b"not an image")
        (made.source.folder / "4.png").unlink()
        result = await made.run(unit)
        assert [(each.item, each.name, each.code) for each in result.failed] == [
            (101, "1.png", "undecodable"),
            (102, "2.png", "not_an_image"),
            (104, "4.png", "missing"),
        ]
        assert [number for number, _ in result.results] == [100, 103, 105]


async def test_an_unexpected_error_is_one_items_failure(tmp_path: Path) -> None:
    async def fail(fitted: Letterbox) -> None:
        if number_of(fitted) == 1:
            raise ZeroDivisionError("a secret")

    async with bench(tmp_path) as made:
        made.detector.before = fail
        result = await made.run(made.unit(3))
        assert [(each.item, each.code, each.detail) for each in result.failed] == [
            (101, "internal", "internal error: ZeroDivisionError")
        ]
        assert len(result.results) == 2


async def test_an_image_that_kills_detectors_fails_as_poison(tmp_path: Path) -> None:
    async def fail(fitted: Letterbox) -> None:
        if number_of(fitted) == 1:
            raise PoisonPicture("two detectors crashed on this image")

    async with bench(tmp_path) as made:
        made.detector.before = fail
        assert [each.code for each in (await made.run(made.unit(2))).failed] == ["poison"]


async def test_no_more_images_than_slots_are_in_flight(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        await asyncio.gather(*(made.run(made.unit(32, number=number)) for number in range(3)))
        assert 2 <= made.detector.most_in_flight <= made.detector.pool.slots  # the window may not have grown


async def test_refused_images_are_sent_again_and_the_window_shrinks(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        (_, window), refusals = made.runner._detectors["default"], [Overloaded("full")] * 3

        async def refuse(fitted: Letterbox) -> None:
            if refusals:
                assert window.size == (2 if len(refusals) == 3 else 1)
                raise refusals.pop()

        made.detector.before = refuse
        result = await made.run(made.unit(1))
        assert (len(result.results), result.deferred, refusals) == (1, None, [])


async def test_what_was_not_done_in_time_is_deferred(tmp_path: Path) -> None:
    async def never(fitted: Letterbox) -> None:
        if number_of(fitted) == 1:
            await asyncio.Event().wait()

    async with bench(tmp_path, unit_time_s=1.0) as made:
        made.detector.before = never
        result = await made.run(made.unit(3))
        assert [number for number, _ in result.results] == [100, 102]
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code) == ((101,), "deadline_exceeded")


@pytest.mark.parametrize("error", [Unavailable("no replica"), NoSpace("full"), DeadlineExceeded("late")])
async def test_what_is_not_the_images_fault_is_deferred(tmp_path: Path, error: Any) -> None:
    async def fail(fitted: Letterbox) -> None:
        if number_of(fitted) != 1:
            raise error

    async with bench(tmp_path) as made:
        made.detector.before = fail
        result = await made.run(made.unit(3))
        assert [number for number, _ in result.results] == [101]
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code, result.failed) == ((100, 102), error.code, ())
        assert result.deferred.retry_after_s > 0


async def test_a_model_that_is_not_deployed_defers_the_unit(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        result = await made.run(made.unit(2), detect={"model": "plates"})
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code, result.results) == ((100, 101), "unavailable", ())


async def test_nothing_is_read_while_no_detector_answers(tmp_path: Path) -> None:
    async def fail(time_left_s: float) -> ModelInfo:
        raise Unavailable("no replica answers")

    async with bench(tmp_path) as made:
        made.detector.model = fail  # type: ignore[method-assign]
        result = await made.run(made.unit(2))
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.code, made.source.reads) == ((100, 101), "unavailable", [])


async def test_a_source_that_cannot_be_opened_defers_the_unit_and_is_opened_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        unit, opener = made.unit(2), made.runner._jobs._opener

        def fail(*_: object) -> Any:
            raise Unavailable("the bucket does not answer")

        made.runner._jobs._opener = fail
        result = await made.run(unit)
        assert result.deferred is not None
        assert (result.deferred.items, result.deferred.detail) == ((100, 101), "the bucket does not answer")
        made.runner._jobs._opener = opener
        assert len((await made.run(unit)).results) == 2


# Models


async def test_a_unit_is_refused_if_the_model_is_another_one(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        assert len((await made.run(made.unit(1), "v1")).results) == 1
        with pytest.raises(ModelChanged):
            await made.run(made.unit(2), "v0")


async def test_a_model_that_changes_during_a_pinned_unit_refuses_the_whole_unit(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.detector.before = changing(made, after=1)
        with pytest.raises(ModelChanged):
            await made.run(made.unit(6), "v1")


async def test_a_runner_that_was_idle_during_a_change_asks_for_the_model_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.detector.info, newest = model_info("cat", "v0"), made.detector.info

        def forget() -> None:
            made.detector.info = newest

        made.detector.forget_model = forget  # type: ignore[method-assign]
        assert len((await made.run(made.unit(2), "v1")).results) == 2


async def test_without_a_pin_images_during_a_roll_out_are_processed_by_the_new_model(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.detector.before = changing(made, after=2)
        result = await made.run(made.unit(6))
        assert len(result.results) == 6
        assert result.models.keys() == {"fake@v1", "fake@v2"}
        assert {line["model"] for line in parsed(result).values()} == {"fake@v1", "fake@v2"}


async def test_a_class_that_the_model_lacks_fails_each_item(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        result = await made.run(made.unit(2), detect={"classes": ["zebra"]})
        assert [each.code for each in result.failed] == ["invalid_parameter"] * 2
        result = await made.run(made.clip(), detect={"classes": ["zebra"]})
        assert [(each.item, each.code) for each in result.failed] == [(100, "invalid_parameter")]


def changing(made: Bench, after: int) -> Any:
    """Return a ``before`` that changes the model after some answers. Later images of the old model are refused."""
    answered = 0

    async def change(fitted: Letterbox) -> None:
        nonlocal answered
        if answered == after and made.detector.info.version == "v1":
            made.detector.info = model_info("cat", "v2")
            raise ModelChanged("changed")
        answered += 1

    return change

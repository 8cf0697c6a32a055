from __future__ import annotations

import asyncio

import pytest

from serve_app.jobs.limits import ByteBudget, InFlight, Window

pytestmark = pytest.mark.anyio


async def places(
    window: Window, count: int
) -> list[tuple[asyncio.Task[None], asyncio.Event, asyncio.Future[InFlight]]]:
    """Start tasks that take a place each, and keep it until their event is set."""
    started = []
    for _ in range(count):
        leave, entered = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def stay(leave: asyncio.Event = leave, entered: asyncio.Future[InFlight] = entered) -> None:
            async with window.place() as place:
                entered.set_result(place)
                await leave.wait()

        started.append((asyncio.create_task(stay()), leave, entered))
    await asyncio.sleep(0)
    return started


async def test_no_more_images_than_the_window_are_in_flight() -> None:
    window = Window(2, limit=8)
    started = await places(window, 4)
    assert [entered.done() for _, _, entered in started] == [True, True, False, False]
    started[0][1].set()
    await started[2][2]
    assert [entered.done() for _, _, entered in started] == [True, True, True, False]
    for task, leave, _ in started:
        leave.set()
        await task
    assert window.in_flight == 0


async def test_the_window_grows_by_one_after_a_full_window_of_fast_answers() -> None:
    window = Window(2, limit=3)
    sizes = []
    async with window.place() as place:
        for _ in range(8):
            place.answered(queue_s=0.01)
            sizes.append(window.size)
    assert sizes == [2, 3, 3, 3, 3, 3, 3, 3]  # never above the limit


async def test_the_window_does_not_grow_while_images_wait() -> None:
    window = Window(2, limit=8)
    async with window.place() as place:
        for queue_s in (0.01, 0.06, 0.01, 0.06, 0.01):
            place.answered(queue_s)
    assert window.size == 2


async def test_a_window_that_grows_admits_an_image_that_waits() -> None:
    window = Window(1, limit=2)
    started = await places(window, 2)
    (await started[0][2]).answered(queue_s=0)
    await started[1][2]
    for task, leave, _ in started:
        leave.set()
        await task


async def test_a_full_queue_halves_the_window_once_however_many_images_it_refuses() -> None:
    window = Window(8, limit=8)
    started = await places(window, 8)
    for _, _, entered in started:
        entered.result().refused()
    assert window.size == 4
    started[0][2].result().refused()  # it was sent again, and refused again
    assert window.size == 2
    for task, leave, _ in started:
        leave.set()
        await task


async def test_the_window_never_closes() -> None:
    window = Window(2, limit=8)
    async with window.place() as place:
        for _ in range(5):
            place.refused()
    assert window.size == 1


async def test_a_cancelled_image_leaves_its_turn_to_the_next() -> None:
    window = Window(1, limit=1)
    first, second, third = await places(window, 3)
    second[0].cancel()
    first[1].set()  # in the same iteration of the event loop, the place becomes free
    await third[2]
    third[1].set()
    await asyncio.wait([first[0], second[0], third[0]])
    assert window.in_flight == 0


async def test_an_image_that_is_cancelled_just_as_it_gets_its_turn_keeps_no_place() -> None:
    window = Window(1, limit=1)
    async with window.place():
        ((second, _, entered),) = await places(window, 1)
    assert window.in_flight == 1  # the turn was given to the second image, which has not run since
    second.cancel()
    await asyncio.wait([second])
    assert (entered.done(), window.in_flight) == (False, 0)


async def test_bytes_beyond_the_budget_wait() -> None:
    budget = ByteBudget(100)
    async with budget.hold(70) as held:
        waiting = asyncio.create_task(_hold(budget, 60))
        small = asyncio.create_task(_hold(budget, 10))  # it would fit, but must not overtake
        await asyncio.sleep(0)
        assert (budget.used_bytes, waiting.done(), small.done()) == (70, False, False)
        held.shrink(40)
        await waiting
        await small
    assert budget.used_bytes == 0


async def test_an_image_larger_than_the_budget_gets_all_of_it() -> None:
    budget = ByteBudget(100)
    async with budget.hold(1000) as held:
        assert budget.used_bytes == 100
        held.shrink(900)  # still more than the budget
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


async def test_bytes_that_are_added_may_exceed_the_budget_and_let_others_wait() -> None:
    budget = ByteBudget(100)
    async with budget.hold(70) as held:
        held.add(50)
        assert budget.used_bytes == 120
        waiting = asyncio.create_task(_hold(budget, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    assert budget.used_bytes == 0


async def _hold(budget: ByteBudget, count_bytes: int) -> None:
    async with budget.hold(count_bytes):
        pass

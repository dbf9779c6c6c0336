"""Virtual time: an hour in no time, timers in order, and a hang told at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from natprobe.lab.clock import Hang, VirtualLoop, run


def test_an_hour_takes_no_time() -> None:
    async def wait() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run(wait()) == pytest.approx(3600)
    assert time.perf_counter() - began < 0.25


def test_a_week_passes_too() -> None:
    async def wait() -> float:
        await asyncio.sleep(7 * 86400)  # asyncio itself never waits for more than a day at once
        return asyncio.get_running_loop().time()

    assert run(wait()) == pytest.approx(7 * 86400)


def test_timers_go_off_in_their_order_and_at_their_time() -> None:
    told: list[tuple[str, float]] = []

    async def tell(name: str, after: float) -> None:
        await asyncio.sleep(after)
        told.append((name, asyncio.get_running_loop().time()))

    async def all_of_them() -> None:
        await asyncio.gather(tell("third", 2.5), tell("first", 0.1), tell("second", 0.2), tell("at once", 0))

    run(all_of_them())
    assert told == [("at once", 0.0), ("first", 0.1), ("second", 0.2), ("third", 2.5)]


def test_a_time_limit_ends_what_waits() -> None:
    async def limited() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run(limited()) == pytest.approx(5)


def test_what_waits_for_nothing_is_told_at_once() -> None:
    async def hang() -> None:
        await asyncio.sleep(3)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Hang, match=r"at 3\.000 s everything waits"):
        run(hang())


def test_what_goes_round_in_circles_is_told() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Hang, match="without letting time pass"):
        run(spin())


def test_there_are_no_threads_and_no_names() -> None:
    async def resolve() -> None:
        await asyncio.get_running_loop().getaddrinfo("localhost", 1)

    with pytest.raises(RuntimeError, match="names are resolved by the Network"):
        run(resolve())


def test_what_is_raised_comes_out_and_what_is_left_is_cancelled() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("lingering")

    async def fail() -> None:
        lingering = asyncio.ensure_future(linger())
        await asyncio.sleep(1)
        assert not lingering.done()
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        run(fail())
    assert ended == ["lingering"]


def test_it_is_a_loop_factory() -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(asyncio.sleep(100))
        assert runner.get_loop().time() == pytest.approx(100)

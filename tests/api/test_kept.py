"""One value for all who ask."""

from __future__ import annotations

import asyncio

import pytest

from cairn.api.kept import Kept


def test_those_who_ask_at_once_share_it_however_long_it_takes() -> None:
    async def run() -> tuple[list[int], int]:
        made = 0

        async def make() -> int:
            nonlocal made
            made += 1
            await asyncio.sleep(0.05)
            return made

        kept = Kept(make, 0.01)
        return await asyncio.gather(*(kept.get() for _ in range(10))), made

    assert asyncio.run(run()) == ([1] * 10, 1)


def test_it_is_made_anew_when_it_is_old_and_not_before() -> None:
    async def run() -> list[int]:
        values = iter(range(10))

        async def make() -> int:
            return next(values)

        kept = Kept(make, 0.05)
        found = [await kept.get(), await kept.get()]
        await asyncio.sleep(0.06)
        return [*found, await kept.get()]

    assert asyncio.run(run()) == [0, 0, 1]


def test_one_who_goes_does_not_end_it_for_the_others() -> None:
    async def run() -> str:
        async def make() -> str:
            await asyncio.sleep(0.05)
            return "made"

        kept = Kept(make, 1)
        first = asyncio.create_task(kept.get())
        await asyncio.sleep(0.01)
        first.cancel()
        return await kept.get()

    assert asyncio.run(run()) == "made"


def test_what_cannot_be_made_is_tried_again() -> None:
    async def run() -> str:
        tries = iter([False, True])

        async def make() -> str:
            if not next(tries):
                raise RuntimeError("no")
            return "made"

        kept = Kept(make, 60)
        with pytest.raises(RuntimeError):
            await kept.get()
        return await kept.get()

    assert asyncio.run(run()) == "made"

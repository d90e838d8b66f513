"""Acknowledgements go in batches: all up to the first still in hand in one frame, what overtook it one by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiormq.exceptions import ChannelInvalidStateError

from plugins.amqp.acks import Acks


class Paper:
    """What is said to an amqp_channel."""

    def __init__(self) -> None:
        self.frames: list[tuple[Any, ...]] = []
        self.is_closed = False
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def basic_ack(self, tag: int, multiple: bool = False, wait: bool = True) -> None:
        self._say("ack", tag, multiple)

    async def basic_nack(self, tag: int, multiple: bool = False, requeue: bool = True, wait: bool = True) -> None:
        assert requeue
        self._say("requeue", tag, multiple)

    def _say(self, *frame: Any) -> None:
        if self.is_closed:
            raise ChannelInvalidStateError("closed")
        self.frames.append(frame)


@pytest.fixture
async def desk() -> tuple[Acks, Paper]:
    paper = Paper()
    acks = Acks(paper)  # type: ignore[arg-type]
    for tag in (1, 2, 3, 4, 5):
        acks.came(tag)
    return acks, paper


async def turn() -> None:
    """What waits is awakened, and runs."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_ends_in_one_turn_shares_a_frame(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    for tag in (2, 1, 3):
        acks.ended(tag)
    assert paper.frames == []
    await turn()
    assert paper.frames == [("ack", 3, True)]
    assert len(acks) == 2
    await acks.finish()


async def test_one_that_is_still_in_hand_is_not_acknowledged_with_those_behind_it(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    for tag in (1, 3, 5):
        acks.ended(tag)
    await turn()
    assert paper.frames == [("ack", 1, False), ("ack", 3, False), ("ack", 5, False)]
    paper.frames.clear()
    acks.requeue(2)
    acks.ended(4)
    await acks.finish()
    assert paper.frames == [("requeue", 2, False), ("ack", 4, False)]
    assert len(acks) == 0


async def test_nothing_is_said_twice_or_of_what_did_not_come(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    acks.ended(1)
    acks.ended(1)
    acks.requeue(9)
    await turn()
    acks.ended(1)
    await acks.finish()
    assert paper.frames == [("ack", 1, False)]


async def test_closed_amqp_channel_ends_the_writing_and_harms_nobody(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    paper.is_closed = True
    acks.ended(1)
    await acks.finish()
    assert paper.frames == []


async def test_writing_ends_with_the_amqp_channel(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    paper.closing.set_result(None)
    await asyncio.wait_for(acks.finish(), 5)
    assert paper.frames == []

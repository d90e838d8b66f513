"""Acknowledgements go in batches: all up to the first still in hand in one frame, what overtook it one by one."""

from __future__ import annotations

import asyncio

import pytest

from plugins.amqp.acks import Acks
from plugins.amqp.amqp_channel import AmqpChannel, Ended
from plugins.amqp.wire import write_ack, write_requeue


class Paper:
    """What an amqp_channel writes."""

    frame_max = 4096

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.frames.append(data)

    def forget(self, number: int) -> None: ...

    def fail(self, why: str) -> None: ...


@pytest.fixture
async def desk() -> tuple[Acks, Paper]:
    paper = Paper()
    acks = Acks(AmqpChannel(paper, 4))
    for tag in (1, 2, 3, 4, 5):
        acks.came(tag)
    return acks, paper


async def test_what_ends_in_one_turn_shares_a_frame(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    for tag in (2, 1, 3):
        acks.ended(tag)
    assert paper.frames == []
    await asyncio.sleep(0)
    assert paper.frames == [write_ack(4, 3, multiple=True)]
    assert len(acks) == 2


async def test_one_that_is_still_in_hand_is_not_acknowledged_with_those_behind_it(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    for tag in (1, 3, 5):
        acks.ended(tag)
    await asyncio.sleep(0)
    assert paper.frames == [
        write_ack(4, 1, multiple=False),
        write_ack(4, 3, multiple=False),
        write_ack(4, 5, multiple=False),
    ]
    paper.frames.clear()
    acks.requeue(2)
    acks.ended(4)
    acks.tell()
    assert paper.frames == [write_requeue(4, 2, multiple=False), write_ack(4, 4, multiple=False)]
    assert len(acks) == 0


async def test_nothing_is_said_to_a_channel_that_is_closed_and_nothing_twice(desk: tuple[Acks, Paper]) -> None:
    acks, paper = desk
    acks.ended(1)
    acks.ended(1)
    acks.requeue(9)
    acks.channel.end(Ended(320, "CONNECTION_FORCED"))
    await asyncio.sleep(0)
    acks.ended(1)
    await asyncio.sleep(0)
    assert paper.frames == []

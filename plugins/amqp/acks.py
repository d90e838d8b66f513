"""What of one amqp_channel is in hand, and what of it has ended: acknowledged in batches, where the order permits."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelInvalidStateError


class Acks:
    """One task writes for all messages, so that those that are kept by one commit share one frame."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self._in_hand: dict[int, bool] = {}  # by tag, in the order of delivery: whether it has ended
        self._back: list[int] = []  # tags of those that go back to their queue
        self._news = asyncio.Event()
        self._finishing = False
        self._writing = asyncio.get_running_loop().create_task(self._write(), name="acknowledge")
        channel.closing.add_done_callback(lambda _closed: self._writing.cancel())

    def __len__(self) -> int:
        return len(self._in_hand)

    def came(self, tag: int) -> None:
        self._in_hand[tag] = False

    def ended(self, tag: int) -> None:
        """It is kept."""
        if tag in self._in_hand:
            self._in_hand[tag] = True
            self._news.set()

    def requeue(self, tag: int) -> None:
        """It goes back to its queue."""
        if self._in_hand.pop(tag, None) is not None:
            self._back.append(tag)
            self._news.set()

    async def finish(self) -> None:
        """Returns when all that has ended is acknowledged, as far as the amqp_channel still takes it."""
        self._finishing = True
        self._news.set()
        await asyncio.wait((self._writing,))

    async def _write(self) -> None:
        with suppress(AMQPError, ChannelInvalidStateError):  # it is closed: what was in hand comes again
            while not self._finishing:
                await self._news.wait()
                await self._tell()

    async def _tell(self) -> None:
        """All up to the first that is still in hand at once; those that overtook it, one by one."""
        self._news.clear()
        back, self._back = self._back, []
        done: list[int] = []
        for tag, has_ended in self._in_hand.items():
            if not has_ended:
                break
            done.append(tag)
        overtook = [tag for tag, has_ended in self._in_hand.items() if has_ended][len(done) :]
        for tag in (*done, *overtook):
            del self._in_hand[tag]
        for tag in back:
            await self.channel.basic_nack(tag, requeue=True, wait=False)
        if done:
            await self.channel.basic_ack(done[-1], multiple=len(done) > 1, wait=False)
        for tag in overtook:
            await self.channel.basic_ack(tag, wait=False)

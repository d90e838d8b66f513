"""What of one amqp_channel is in hand, and what of it has ended: acknowledged in batches, where the order permits."""

from __future__ import annotations

import asyncio

from plugins.amqp.amqp_channel import AmqpChannel


class Acks:
    def __init__(self, channel: AmqpChannel) -> None:
        self.channel = channel
        self._in_hand: dict[int, bool] = {}  # by tag, in the order of delivery: whether it has ended
        self._told = True

    def __len__(self) -> int:
        return len(self._in_hand)

    def came(self, tag: int) -> None:
        self._in_hand[tag] = False

    def ended(self, tag: int) -> None:
        """It is kept. Messages that are kept by one commit end in one turn of the loop, and share one frame."""
        if tag in self._in_hand:
            self._in_hand[tag] = True
            if self._told:
                self._told = False
                asyncio.get_running_loop().call_soon(self.tell)

    def requeue(self, tag: int) -> None:
        """It goes back to its queue."""
        if self._in_hand.pop(tag, None) is not None:
            self.channel.requeue(tag)

    def tell(self) -> None:
        """All up to the first that is still in hand at once; those that overtook it, one by one."""
        self._told = True
        done: list[int] = []
        for tag, has_ended in self._in_hand.items():
            if not has_ended:
                break
            done.append(tag)
        if done:
            self.channel.acknowledge(done[-1], multiple=len(done) > 1)
        overtook = [tag for tag, has_ended in self._in_hand.items() if has_ended][len(done) :]
        for tag in overtook:
            self.channel.acknowledge(tag)
        for tag in (*done, *overtook):
            del self._in_hand[tag]

"""One socket of a subscriber: what is bound on it, and whose turn it is to be told (channel.Subscriber)."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Protocol

from broker.channel import Peer
from broker.core.outcome import BadRequest, Refusal
from broker.core.subscription.binding import How, read_bind

MOST_BOUND = 1000  # subscriptions of one socket: each is a line in memory


class Bound:
    """A subscription that is told over one socket, and how far."""

    __slots__ = ("beats", "greets", "key", "position", "socket", "spoken")

    def __init__(self, key: int, socket: Socket, position: int, spoken: datetime) -> None:
        self.key, self.socket = key, socket
        self.position = position  # the last event number that was handed out, or passed over
        self.spoken = spoken  # when anything at all was handed out (S-22)
        self.greets = True  # it is to hear the handshake, or `bound`, first
        self.beats = False  # it is to hear a heartbeat


class Serves(Protocol):
    """What a socket needs of the feeds."""

    def keys_of(self, how: How, value: str, peer: Peer) -> tuple[int, ...]:
        """What a client may be told that says this; raises Refusal."""
        ...

    def bind(self, key: int, socket: Socket) -> Bound: ...

    async def text_for(self, bound: Bound) -> str | None:
        """What it is to hear next; None while there is nothing."""
        ...

    def has_heard(self, bound: Bound) -> None: ...

    def leave(self, bound: Bound) -> None: ...


class Socket:
    __slots__ = ("_bounds", "_feeds", "_handed", "_peer", "_ready", "_refusal", "_waiter")

    def __init__(self, feeds: Serves, peer: Peer) -> None:
        self._feeds = feeds
        self._peer = peer
        self._bounds: dict[int, Bound] = {}
        self._ready: dict[int, None] = {}  # keys that may have something to hear, whose turn it is first
        self._handed: Bound | None = None  # whose text is being written
        self._refusal: Refusal | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def say(self, text: str) -> None:
        bind = read_bind(text)
        if bind is None:
            raise BadRequest(
                "Say `bind-with-token TOKEN`, or `bind ID` for a Subscription of R4 that has no topic.", id="no-bind"
            )
        keys = self._feeds.keys_of(bind.how, bind.value, self._peer)
        if len(self._bounds.keys() | set(keys)) > MOST_BOUND:
            raise BadRequest(f"One socket is bound to {MOST_BOUND} subscriptions at most.", id="too-many-bound")
        for key in keys:
            bound = self._bounds.get(key)
            if bound is None:
                self._bounds[key] = self._feeds.bind(key, self)
            else:
                bound.greets = True  # bound anew: it hears so, and goes on from where it is
            self.wake(key)

    async def next(self) -> str:
        if self._handed is not None:  # who asks for more has written the last
            handed, self._handed = self._handed, None
            self._feeds.has_heard(handed)
        while True:
            if self._refusal is not None:
                raise self._refusal
            text = await self._take()
            if text is not None:
                return text
            if not self._ready and self._refusal is None:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None

    async def _take(self) -> str | None:
        while self._ready:
            key = next(iter(self._ready))
            del self._ready[key]
            bound = self._bounds[key]
            text = await self._feeds.text_for(bound)
            if self._refusal is not None:
                return None
            if text is not None:
                self._ready[key] = None  # there may be more; the others come before that
                self._handed = bound
                return text
        return None

    # -- said by the feeds

    def wake(self, key: int) -> None:
        """There may be something to hear."""
        self._ready[key] = None
        self._go_on()

    def cut(self, refusal: Refusal) -> None:
        """It is to be closed, and may say why."""
        self._refusal = self._refusal or refusal
        self._go_on()

    def _go_on(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        bounds, self._bounds = self._bounds, {}
        self._ready.clear()
        for bound in bounds.values():
            self._feeds.leave(bound)

"""What the suite needs of a channel: a way to hand something in as a partner would, and a peer at the other end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from broker.core.envelope import EMPTY, Envelope

JSON = "application/fhir+json"
XML = "application/fhir+xml"
WITHIN = 20.0  # seconds; two cores may be busy with other tests


class How(Enum):
    """What the protocol said to who handed a message in."""

    TAKEN = "taken"
    REFUSED = "refused"  # never
    LATER = "later"
    LOST = "lost"  # nothing: nobody listens, or the connection ended without a word


@dataclass(frozen=True, kw_only=True)
class Ended:
    how: How
    problem: str = ""  # our stable id of it, where the protocol has room for it
    duplicate: bool | None = None  # None: the protocol's acknowledgement has no room for that


class Says(Enum):
    """What a peer does with what it gets."""

    TAKES = "takes"
    REFUSES = "refuses"
    LATER = "later"
    DIES = "dies"  # once it has read the message, before it acknowledges it
    HOLDS = "holds"  # says nothing until it is released; then it takes


@dataclass(frozen=True, kw_only=True)
class Got:
    """A message as a peer received it."""

    body: bytes
    media_type: str
    envelope: Envelope
    in_reply_to: str | None = None


class Peer(ABC):
    """The other end of an address. It takes everything, unless it was told otherwise."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self._lines: deque[Says] = deque([Says.TAKES])
        self._released = asyncio.Event()
        self._came = asyncio.Event()

    address: str

    @abstractmethod
    async def start(self) -> None:
        """It can be reached, at the same address as before."""

    @abstractmethod
    async def stop(self) -> None:
        """It cannot be reached. Stopping twice is stopping once."""

    def says(self, *lines: Says) -> None:
        """To each message that comes, the next of these; the last again and again."""
        self._lines = deque(lines)

    def release(self) -> None:
        self._released.set()

    async def heard(self, got: Got) -> Says:
        """What to do with a message that has come: called by the desk's own server."""
        self.got.append(got)
        self._came.set()
        line = self._lines.popleft() if len(self._lines) > 1 else self._lines[0]
        if line is Says.HOLDS:
            await self._released.wait()
            return Says.TAKES
        return line

    async def until(self, enough: Callable[[], bool], within: float = WITHIN) -> None:
        """Looks with each message that comes."""
        async with asyncio.timeout(within):
            while not enough():
                self._came.clear()
                await self._came.wait()

    async def until_got(self, count: int, within: float = WITHIN) -> list[Got]:
        await self.until(lambda: len(self.got) >= count, within)
        return self.got


class Desk(ABC):
    """One channel. Its ports and folders stay the same when the broker is stopped and started again."""

    name: ClassVar[str]
    says: ClassVar[frozenset[Says]]  # what a peer can say in this protocol
    unusable: ClassVar[tuple[str, ...]] = ()  # addresses of its scheme that no attempt can use
    has_references: ClassVar[bool] = False  # a sender names its message, and a response can quote that
    tries_again: ClassVar[bool] = False  # what was told "later" is tried again by the channel, and not by its sender

    takes_events: ClassVar[bool] = False  # where messages come in, events may come with data that is no FHIR message

    peer: Peer  # made by open()

    def __init__(self, folder: Path, server: Any = None) -> None:
        self.folder = folder
        self.server = server

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator[Any]:
        """The server of somebody else that all desks of this channel share, for as long as the tests run."""
        yield None

    @staticmethod
    def a_reference(text: str) -> str:
        """A name that a sender of this channel may give its message."""
        return text

    @abstractmethod
    async def open(self) -> None:
        """Servers that both sides need, and the peer, started; before the broker is."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """What stands in broker.yaml for this channel: `channels`, and what else it needs."""

    @abstractmethod
    async def hand_in(
        self,
        body: bytes,
        envelope: Envelope = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
    ) -> Ended:
        """As a partner would, in the channel's own words; returns when it is told how that ended."""

    async def again(self, body: bytes) -> Ended:
        """How it ends for who was told "later": it sends the same again, unless the channel does that for it."""
        for _ in range(int(WITHIN / 0.1)):
            ended = await self.hand_in(body)
            if ended.how is not How.LATER:
                break
            await asyncio.sleep(0.1)
        return ended


class ListeningDesk(Desk):
    """One whose caller can say where on this channel it listens for its response."""

    @abstractmethod
    async def hand_in(
        self,
        body: bytes,
        envelope: Envelope = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
        answer_here: bool = False,
    ) -> Ended:
        """`answer_here`: it says that it listens for the response, which `answer` then returns."""

    @abstractmethod
    async def answer(self) -> Got:
        """The response that came to the address where `hand_in(answer_here=True)` listens."""

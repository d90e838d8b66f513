"""A real broker with one channel to the world, and that channel's desk at both ends of it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from desks.desk import JSON, WITHIN, Desk
from e2e_daemon import free_port, merged
from e2e_messages import SOUTH
from e2e_messages import message as new_message

from broker.app import Broker
from broker.channel import Sender, Transmission
from broker.config import load
from broker.core.envelope import EMPTY, Envelope
from broker.store import Delivery

HERE = "urn:oid:2.999.1"
EAST = "urn:oid:2.999.2.3"  # who sends, and is reached over the same channel
BOX = "urn:oid:2.999.2.4"  # a mailbox


@cache
def message(id: str = "m", **more: Any) -> bytes:
    """A message; the same words give the same bytes."""
    return new_message(id, **more)


class Office:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.peer = desk.peer
        self.folder = desk.folder
        self._broker: Broker | None = None
        self.base_port = free_port()

    def configuration(self) -> dict[str, Any]:
        least = {
            "broker": {
                "endpoint": HERE,
                "base_url": f"http://127.0.0.1:{self.base_port}/fhir",
                "limits": {"message": "32MiB", "in_flight": "64MiB"},
            },
            "store": {"url": "sqlite:broker.db", "min_free": "1MiB"},
            "admin": {"listen": "127.0.0.1:0"},
            "directory": {"endpoints": {SOUTH: self.peer.address, EAST: self.peer.address, BOX: "mailbox:"}},
            "defaults": {
                "retry": {"first": "100ms", "factor": 1, "max": "100ms", "give_up": "5m"},
                "lane": {"connect": "2s", "answer": "15s", "probe": "100ms"},
            },
        }
        return merged(least, self.desk.configuration())

    @property
    def file(self) -> Path:
        return self.folder / "broker.yaml"

    def write(self) -> Path:
        self.file.write_bytes(orjson.dumps(self.configuration()))  # JSON is YAML 1.2
        return self.file

    async def start(self) -> Broker:
        self._broker = Broker(load(self.write(), env={}))
        await self._broker.start()
        return self._broker

    async def stop(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.stop()

    @property
    def broker(self) -> Broker:
        assert self._broker is not None, "it is not started"
        return self._broker

    # -- what the sender is asked directly

    @property
    def sender(self) -> Sender:
        sender = self.broker.channels.sender_for(self.peer.address)
        assert sender is not None
        return sender

    def transmission(
        self,
        body: bytes,
        *,
        address: str | None = None,
        envelope: Envelope = EMPTY,
        media_type: str = JSON,
        answer: float = 10,
        in_reply_to: str | None = None,
        event: bool = False,
    ) -> Transmission:
        return Transmission(
            message_id=str(uuid4()),
            body=body,
            media_type=media_type,
            address=address or self.peer.address,
            envelope=envelope,
            connect=timedelta(seconds=2),
            answer=timedelta(seconds=answer),
            in_reply_to=in_reply_to,
            event=event,
        )

    # -- what the store knows

    async def accepted(self) -> int:
        return (await self.broker.store.counts()).messages

    async def delivery(self, position: int = 1) -> Delivery:
        (delivery,) = await self.broker.store.deliveries(position)
        return delivery

    @contextmanager
    def held_commits(self) -> Iterator[None]:
        """No commit comes about meanwhile: another process holds the lock of the database."""
        other = sqlite3.connect(self.folder / "broker.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
        finally:
            other.close()


class Servers:
    """The servers of other people, each started when the first desk needs it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._running: dict[type[Desk], Any] = {}

    def of(self, kind: type[Desk]) -> Any:
        if kind not in self._running:
            self._running[kind] = self._stack.enter_context(kind.serving(self._folder / kind.name))
        return self._running[kind]


@asynccontextmanager
async def opened(kind: type[Desk], folder: Path, server: Any) -> AsyncIterator[Office]:
    desk = kind(folder, server)
    async with asyncio.timeout(WITHIN):
        await desk.open()
    office = Office(desk)
    try:
        await office.start()
        yield office
    finally:
        desk.peer.release()
        await office.stop()
        await desk.close()

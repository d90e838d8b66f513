"""Speaks `fhir-broker.v1` with a client: sends and receipts, mailboxes and acknowledgements, live notifications."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed

from broker.channel import Hold, Host, Mail
from broker.core.addressing import name_key
from broker.core.outcome import BadRequest, Refusal
from plugins.websocket import frames
from plugins.websocket.connection import Connection
from plugins.websocket.following import Following
from plugins.websocket.frames import Payload
from plugins.websocket.mailboxes import Reader, Showing
from plugins.websocket.taking import Speaker, closed, refused, take

MOST_NAMES = 100  # mailboxes that one connection reads, and endpoints that it follows
LONGEST_NAME = 2000  # characters of an endpoint


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    under_way: int
    window: int


def write_delivery(mailbox: str, mail: Mail) -> Payload:
    return frames.delivery(
        mailbox, mail.position, mail.message_id, mail.accepted, mail.envelope, mail.body, mail.media_type
    )


class Exchange:
    """One connection's session."""

    __slots__ = (
        "_acknowledging", "_connection", "_draining", "_followed", "_following", "_host", "_limits", "_readers",
        "_showing", "_speaker", "_under_way",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        host: Host,
        speaker: Speaker,
        *,
        limits: Limits,
        showing: Showing,
        following: Following,
        draining: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._host = host
        self._speaker = speaker
        self._limits = limits
        self._showing = showing
        self._following = following
        self._draining = draining
        # An idle connection that only follows has none of these.
        self._under_way: set[asyncio.Task[None]] | None = None
        self._readers: dict[str, Reader] | None = None
        self._acknowledging: dict[str, int] | None = None  # mailbox to position: what is to be written next
        self._followed: set[str] | None = None

    async def run(self) -> None:
        """Until the connection is closed."""
        try:
            while True:
                message = await self._connection.recv()
                hold = self._connection.take_hold()
                try:
                    await self._one(message, hold)
                except BaseException:
                    if hold is not None:
                        hold.let_go()
                    raise
        except ConnectionClosed:
            pass
        finally:
            await self._end()

    def resumed(self) -> None:
        for reader in (self._readers or {}).values():
            self._showing.wake(reader)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that the other side waits for."""
        return bool(self._under_way)

    async def idle(self) -> None:
        """Returns once nothing is under way any more."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def _end(self) -> None:
        for endpoint in self._followed or ():
            self._following.remove(self._connection, endpoint)
        for reader in (self._readers or {}).values():
            self._showing.leave(reader)
        if self._under_way:
            tasks = set(self._under_way)
            for task in tasks:
                task.cancel()  # nobody listens for the answer any more
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, message: str | bytes, hold: Hold | None) -> None:
        head = b""
        try:
            head, body = frames.cut(message)
            frame = frames.read_from_client(head)
            match frame:
                case frames.Send():
                    await self._send(frame, body, hold)
                    return
                case frames.Subscribe():
                    await self._subscribe(frame)
                case frames.Ack():
                    await self._ack(frame)
                case frames.Unsubscribe():
                    self._unsubscribe(frame.mailbox)
                case frames.Follow():
                    await self._follow(frame.endpoint)
                case frames.Unfollow():
                    self._following.remove(self._connection, frame.endpoint)
                    (self._followed or set()).discard(frame.endpoint)
        except Refusal as refusal:
            await self._connection.answer(refused(frames.ref_of(head), refusal, self._host.default_release))
        if hold is not None:
            hold.let_go()

    # -- what is sent

    async def _send(self, send: frames.Send, body: bytes, hold: Hold | None) -> None:
        """Begins to take it in; waits while too many of this connection are under way, and so does its reading."""
        if self._draining():
            raise closed()
        await self._start(self._take(send, body, hold))

    async def _take(self, send: frames.Send, body: bytes, hold: Hold | None) -> None:
        payload = await take(self._host, self._speaker, send, body, hold)
        await self._connection.answer(payload)

    async def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._under_way is None:
            self._under_way = set()
        while len(self._under_way) >= self._limits.under_way:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        assert self._under_way is not None
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # ConnectionClosed: whoever asked has gone

    # -- mailboxes

    async def _subscribe(self, asked: frames.Subscribe) -> None:
        _check_name(asked.mailbox, "mailbox")
        if asked.after < 0 or asked.window < 1:
            raise BadRequest("`after` is a position, 0 or more, and `window` at least 1", id="bad-frame")
        if self._readers is None:
            self._readers = {}
        if asked.mailbox not in self._readers and len(self._readers) >= MOST_NAMES:
            raise BadRequest(f"one connection reads at most {MOST_NAMES} mailboxes", id="too-many-mailboxes")
        self._unsubscribe(asked.mailbox)  # a second subscription replaces the first
        window = min(asked.window, self._limits.window)
        reader = Reader(
            self._connection, asked.mailbox, asked.after, window=window, write=write_delivery, ended=self._reading_ended
        )
        self._readers[asked.mailbox] = reader
        said = {"type": "subscribed", "mailbox": asked.mailbox, "after": asked.after, "window": window}
        await self._connection.answer(frames.text(said))
        self._showing.begin(reader)

    def _unsubscribe(self, mailbox: str) -> None:
        if self._readers is not None and (reader := self._readers.pop(mailbox, None)) is not None:
            self._showing.leave(reader)

    def _reading_ended(self, reader: Reader, refusal: Refusal) -> None:
        """It cannot go on from where it is: retention has removed what followed."""
        self._unsubscribe(reader.mailbox)
        problem = refusal.problem
        outcome = frames.outcome(list(refusal.problems), self._host.default_release)
        said = {"type": "unsubscribed", "mailbox": reader.mailbox, "after": reader.position, "problem": problem.id}
        self._connection.push(frames.text({**said, "text": problem.text, "outcome": outcome}))

    async def _ack(self, ack: frames.Ack) -> None:
        """Acknowledgements that come while one is being written are written together after it."""
        if ack.mailbox not in (self._readers or {}):
            raise BadRequest(f"nothing of the mailbox {ack.mailbox} is read on this connection", id="not-subscribed")
        if self._acknowledging is not None:
            self._acknowledging[ack.mailbox] = max(ack.position, self._acknowledging.get(ack.mailbox, 0))
            return
        self._acknowledging = {ack.mailbox: ack.position}
        await self._start(self._acknowledge())

    async def _acknowledge(self) -> None:
        try:
            while self._acknowledging:
                mailbox, position = self._acknowledging.popitem()
                if (reader := (self._readers or {}).get(mailbox)) is not None:
                    await self._write_acknowledgement(reader, position)
        finally:
            self._acknowledging = None

    async def _write_acknowledgement(self, reader: Reader, position: int) -> None:
        ids = [id for _, id in reader.acknowledged(position)]
        try:
            if ids:
                await self._host.mailboxes.acknowledge(reader.mailbox, ids, self._reader_name())
        except Refusal as refusal:
            problem = refusal.problem
            said = {"type": "unacknowledged", "mailbox": reader.mailbox, "position": position, "problem": problem.id}
            outcome = frames.outcome(list(refusal.problems), self._host.default_release)
            await self._connection.answer(frames.text({**said, "text": problem.text, "outcome": outcome}))
            return
        reader.freed(position)
        self._showing.wake(reader)
        said = {"type": "acknowledged", "mailbox": reader.mailbox, "position": position}
        await self._connection.answer(frames.text(said))

    def _reader_name(self) -> str:
        """Who reads, as far as it is known: the address alone, since every connection has another port."""
        peer = self._speaker.peer
        return peer.party or peer.address.rpartition(":")[0].strip("[]") or peer.address

    # -- live

    async def _follow(self, endpoint: str) -> None:
        _check_name(endpoint, "endpoint")
        if self._followed is None:
            self._followed = set()
        if endpoint not in self._followed and len(self._followed) >= MOST_NAMES:
            raise BadRequest(f"one connection follows at most {MOST_NAMES} endpoints", id="too-many-endpoints")
        self._followed.add(endpoint)
        self._following.add(self._connection, endpoint)
        await self._connection.answer(frames.text({"type": "following", "endpoint": endpoint}))


def _check_name(name: str, what: str) -> None:
    if not name or len(name) > LONGEST_NAME or not name_key(name):
        raise BadRequest(f"`{what}` names an endpoint", id="bad-frame")

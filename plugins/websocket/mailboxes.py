"""Shows mailboxes: who is behind reads pages of its own pace, who stands at the end shares one read with the others.

A reader is in one of three states. *Catching up*: a task reads pages for it, as many messages as it has room for.
*At the end*: it is one of a tail, whose one task reads what comes, writes each frame once and gives it to all. *Full*:
it has not acknowledged its window, or does not read; it costs nothing, and catches up from where it was once it has
room. So a slow reader holds no page, no task and no more bytes than its queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from broker.channel import Host, Mail, MailPage
from broker.core.outcome import Gone, Refusal
from plugins.websocket.connection import Connection, push
from plugins.websocket.frames import Payload

log = structlog.get_logger("websocket")

PAGE = 32  # messages read at once
READING = 8  # pages in memory at once, over all readers
SLICE = 250  # readers that get a frame before others have their turn: two milliseconds
PAUSE = 1.0  # seconds before a store that could not be read is asked again

Write = Callable[[str, Mail], Payload]


class Reader:
    """One connection's view of one mailbox."""

    __slots__ = (
        "at_end", "catching_up", "connection", "ended", "left", "mailbox", "position", "size", "unacknowledged",
        "window", "write",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        mailbox: str,
        after: int,
        *,
        window: int | None,
        write: Write,
        ended: Callable[[Reader, Refusal], None],
    ) -> None:
        self.connection = connection
        self.mailbox = mailbox
        self.position = after  # of the last message that was shown, or the place read up to
        self.window = window  # None: nothing is acknowledged
        self.write = write
        self.ended = ended
        self.unacknowledged: list[tuple[int, str]] = []  # position and id, oldest first
        self.size = 1024  # bytes of the last frame: how many of them the queue has room for
        self.at_end = self.catching_up = self.left = False

    @property
    def room(self) -> int:
        """How many more messages it may be shown now."""
        connection = self.connection
        if self.left or connection.paused or not connection.is_open:
            return 0
        return PAGE if self.window is None else self.window - len(self.unacknowledged)

    def shown(self, mail: Mail, payload: Payload) -> None:
        self.position = mail.position
        self.size = len(payload[0])
        if self.window is not None:
            self.unacknowledged.append((mail.position, mail.message_id))

    def acknowledged(self, position: int) -> list[tuple[int, str]]:
        """What an acknowledgement up to a position is about; it frees room once it is on disk (`freed`)."""
        return [one for one in self.unacknowledged if one[0] <= position]

    def freed(self, position: int) -> None:
        self.unacknowledged = [one for one in self.unacknowledged if one[0] > position]


class Tail:
    """The readers at the end of one mailbox, who are shown the same frames."""

    __slots__ = ("mailbox", "position", "readers", "task", "write")

    def __init__(self, mailbox: str, position: int, write: Write) -> None:
        self.mailbox, self.position, self.write = mailbox, position, write
        self.readers: dict[Reader, None] = {}
        self.task: asyncio.Task[None] | None = None


class Showing:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._tails: dict[tuple[str, Write], Tail] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pages = asyncio.Semaphore(READING)

    def begin(self, reader: Reader) -> None:
        self.wake(reader)

    def wake(self, reader: Reader) -> None:
        """The reader may have room again."""
        if not reader.at_end and not reader.catching_up and reader.room > 0:
            reader.catching_up = True
            self._start(self._catch_up(reader))

    def leave(self, reader: Reader) -> None:
        reader.left = True
        self._drop(reader)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("showing a mailbox failed", exc_info=error)

    # -- who is behind

    async def _catch_up(self, reader: Reader) -> None:
        try:
            while (room := reader.room) > 0:
                queue = max(1, reader.connection.write_limit_high // reader.size)
                try:
                    async with self._pages:
                        page = await self._host.mailboxes.read(reader.mailbox, reader.position, min(room, PAGE, queue))
                        if self._show(reader, page) and self._join(reader):
                            return
                except Refusal as refusal:
                    if isinstance(refusal, Gone):
                        reader.ended(reader, refusal)
                        return
                    await asyncio.sleep(PAUSE)
        finally:
            reader.catching_up = False

    def _show(self, reader: Reader, page: MailPage) -> bool:
        """Whether all of the page was shown, and there was no more."""
        for mail in page.mail:
            if reader.room <= 0:
                return False
            payload = reader.write(reader.mailbox, mail)
            reader.shown(mail, payload)
            reader.connection.push(payload)
        reader.position = max(reader.position, page.reached)
        return not page.more and reader.room > 0

    # -- who stands at the end

    def _join(self, reader: Reader) -> bool:
        """False where the others have been shown something meanwhile: one more read, then."""
        key = (reader.mailbox, reader.write)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(reader.mailbox, reader.position, reader.write)
            tail.task = self._start(self._follow(key, tail))
        elif reader.position < tail.position:
            return False
        tail.readers[reader] = None
        reader.at_end = True
        return True

    def _drop(self, reader: Reader) -> None:
        if not reader.at_end:
            return
        reader.at_end = False
        key = (reader.mailbox, reader.write)
        tail = self._tails[key]
        del tail.readers[reader]
        if not tail.readers:
            del self._tails[key]
            if tail.task is not None and tail.task is not asyncio.current_task():
                tail.task.cancel()

    async def _follow(self, key: tuple[str, Write], tail: Tail) -> None:
        with self._host.mailboxes.following(tail.mailbox) as event:
            while self._tails.get(key) is tail:
                event.clear()
                try:
                    async with self._pages:
                        page = await self._host.mailboxes.read(tail.mailbox, tail.position, PAGE)
                        for mail in page.mail:
                            await self._spread(tail, mail)
                except Refusal as refusal:
                    if isinstance(refusal, Gone):  # retention overtook whoever was here: each is told, and goes on
                        for reader in list(tail.readers):
                            reader.ended(reader, refusal)
                        return
                    await asyncio.sleep(PAUSE)
                    continue
                tail.position = max(tail.position, page.reached)
                if not page.more:
                    await event.wait()

    async def _spread(self, tail: Tail, mail: Mail) -> None:
        """One message to all; who has no room for it falls behind."""
        payload = tail.write(tail.mailbox, mail)
        tail.position = mail.position  # from here on nobody joins who has not seen it
        readers = list(tail.readers)
        for start in range(0, len(readers), SLICE):
            if start:
                await asyncio.sleep(0)
            ready = []
            for reader in readers[start : start + SLICE]:
                if not reader.at_end or reader.position >= mail.position:
                    continue
                if reader.room <= 0:
                    self._drop(reader)
                    continue
                reader.shown(mail, payload)
                ready.append(reader.connection)
            push(ready, payload)

"""Reads of mailboxes, shared: readers who stand at the same place of one ask for the same, and are woken together."""

from __future__ import annotations

import asyncio

import msgspec

from broker.store import Filter, MailboxPage, Store

LARGEST_BYTES = 8 << 20  # of the messages on one page; a single larger one still comes


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """A read of the store; two readers who stand at the same place ask for equal ones."""

    mailbox: str | None
    after: int
    limit: int
    wanted: Filter = Filter()
    newest_first: bool = False


class SharedReads:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._reads: dict[Read, asyncio.Task[MailboxPage]] = {}  # that have not begun

    async def page(self, read: Read) -> MailboxPage:
        """Readers who are woken together share one read; nobody joins one that may have begun before its message."""
        task = self._reads.get(read)
        if task is None:
            task = self._reads[read] = asyncio.create_task(self._begin(read))
        return await asyncio.shield(task)

    async def _begin(self, read: Read) -> MailboxPage:
        del self._reads[read]
        return await self.alone(read)

    async def alone(self, read: Read) -> MailboxPage:
        """A read that nobody else is likely to ask for."""
        return await self._store.read(
            read.mailbox, read.after, read.limit, read.wanted, read.newest_first, LARGEST_BYTES
        )

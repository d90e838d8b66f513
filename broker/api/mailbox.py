"""The mailbox: pages of what was delivered, oldest first, and readers who wait at its end (contract: GET /Bundle)."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec
from aiohttp import hdrs, web

from broker.api.asking import Asking, Here, asked_of
from broker.api.parameters import HIGHEST_POSITION
from broker.api.search import MailboxSearch, read_search
from broker.core.fhir.searchset import PageEntry, count_only, searchset
from broker.core.outcome import Busy, Gone
from broker.store import MailboxEntry, MailboxPage, Store
from broker.store.shared_reads import LARGEST_BYTES, Read, SharedReads
from broker.web import preferences

log = logging.getLogger(__name__)

BESIDE_THE_LOOP = 256 * 1024  # bytes of messages; putting more into a page takes longer than others should wait
LONGEST_WAIT = 60  # seconds; most proxies cut a silent connection soon after
RETRY_WHEN_FULL = 10.0  # seconds


class Followers(Protocol):
    """Readers that stand at the end of a mailbox."""

    @property
    def full(self) -> bool: ...
    @property
    def stopped(self) -> bool: ...
    def following(self, mailbox: str | None) -> AbstractContextManager[asyncio.Event]: ...


class Mailboxes:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        reads: SharedReads,
        followers: Followers,
        reader: Callable[[web.Request], str],
    ) -> None:
        self._here = here
        self._store = store
        self._followers = followers
        self._reader = reader
        self._reads = reads
        self._marking: set[Future[None]] = set()

    async def search(self, request: web.Request) -> web.StreamResponse:
        pairs = await asked_of(request)
        asking = Asking(request, self._here, pairs)
        search = read_search(pairs, strict=asking.is_strict)
        if search.count_only:
            total = await self._count(search)
            body = count_only(format=asking.format, self_url=search.url(asking.base, search.after), total=total)
            return asking.answer(body, headers=_applied(asking, None))
        wait = _wait(request)
        page = await self._page(search, wait)
        if page.first_left is not None:
            raise _gone(search.after, page.first_left)
        response = asking.answer(await self._write(asking, search, page), headers=_applied(asking, wait))
        if page.entries and search.mailbox is not None and request.method != hdrs.METH_HEAD:
            await response.prepare(request)
            await response.write_eof()  # who went away before the last byte has not read it
            self._mark_read(search.mailbox, page, self._reader(request))
        return response

    # -- reading

    async def _page(self, search: MailboxSearch, wait: int | None) -> MailboxPage:
        if search.nothing:
            return MailboxPage(entries=(), reached=search.after, more=False)
        if search.ids is not None:
            return await self._chosen(search)
        if not wait:
            return await self._reads.page(_read(search))
        if self._followers.full:
            raise Busy(
                "too many readers wait for messages; poll without Prefer: wait, or come again later",
                id="too-many-followers",
                retry_after=RETRY_WHEN_FULL,
            )
        return await self._follow(search, wait)

    async def _follow(self, search: MailboxSearch, wait: int) -> MailboxPage:
        """Waits only at the end of the mailbox; the event is there before the first read, so nothing is missed."""
        read = _read(search)
        with self._followers.following(search.mailbox) as event:
            page = await self._reads.page(read)
            try:
                async with asyncio.timeout(wait):
                    while not page.entries and page.first_left is None and not self._followers.stopped:
                        await event.wait()
                        event.clear()
                        page = await self._reads.page(read)
            except TimeoutError:
                page = await self._reads.page(read)
        return page

    async def _chosen(self, search: MailboxSearch) -> MailboxPage:
        """Only messages with these ids: each is looked for where it must be."""
        entries: list[MailboxEntry] = []
        size, more = 0, False
        for position in self._positions(search):
            read = Read(mailbox=search.mailbox, after=position - 1, limit=1, wanted=search.wanted, newest_first=False)
            found = [entry for entry in (await self._reads.alone(read)).entries if entry.position == position]
            if not found:
                continue
            size += len(found[0].body)
            if len(entries) == search.count or (entries and size > LARGEST_BYTES):
                more = True
                break
            entries += found
        return MailboxPage(entries=tuple(entries), reached=_last(entries, search.after), more=more)

    def _positions(self, search: MailboxSearch) -> list[int]:
        found = {self._here.ids.position(id.rpartition("|")[2]) for id in search.ids or ()}
        known = {position for position in found if position is not None}
        if search.newest_first:
            return sorted((p for p in known if not search.after or p < search.after), reverse=True)
        return sorted(p for p in known if p > search.after)

    async def _count(self, search: MailboxSearch) -> int:
        """All matches, wherever the page stands."""
        if search.nothing:
            return 0
        if search.ids is None:
            return await self._store.count(search.mailbox, search.wanted)
        everything = msgspec.structs.replace(search, after=0, count=len(search.ids))
        return len((await self._chosen(everything)).entries)

    # -- writing

    async def _write(self, asking: Asking, search: MailboxSearch, page: MailboxPage) -> bytes:
        entries = [self._entry(entry) for entry in page.entries]
        total = await self._total(search, page)

        def write() -> bytes:
            return searchset(
                entries,
                format=asking.format,
                release=asking.release,
                self_url=search.url(asking.base, search.after),
                next_url=_next(asking, search, page),
                total=total,
                base_url=asking.base,
                warnings=search.warnings,
            )

        large = sum(len(entry.body) for entry in entries) > BESIDE_THE_LOOP
        return await asyncio.to_thread(write) if large else write()

    async def _total(self, search: MailboxSearch, page: MailboxPage) -> int | None:
        """Given when it is asked for, and where the one page holds all: else each page would cost the whole mailbox."""
        if search.total:
            return await self._count(search)
        return len(page.entries) if not page.more and search.after == 0 else None

    def _entry(self, entry: MailboxEntry) -> PageEntry:
        return PageEntry(
            message_id=self._here.ids.of(entry.position),
            position=entry.position,
            body=entry.body,
            format=entry.format,
            release=entry.release,
            media_type=entry.media_type,
            last_updated=entry.accepted,
        )

    # -- who read what

    def _mark_read(self, mailbox: str, page: MailboxPage, reader: str) -> None:
        """Beside the answer: a page that was read stays read, whatever becomes of the note."""
        positions = [entry.position for entry in page.entries]
        future = self._store.mark_read(mailbox, positions, reader, self._here.now())
        self._marking.add(future)
        future.add_done_callback(self._marked)

    def _marked(self, future: Future[None]) -> None:
        self._marking.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.warning("who read a mailbox page was not noted: %s", type(error).__name__)


def _read(search: MailboxSearch) -> Read:
    return Read(
        mailbox=search.mailbox,
        after=search.after,
        limit=search.count,
        wanted=search.wanted,
        newest_first=search.newest_first,
    )


def _last(entries: list[MailboxEntry], after: int) -> int:
    return entries[-1].position if entries else after


def _next(asking: Asking, search: MailboxSearch, page: MailboxPage) -> str | None:
    """Oldest first there is always a next page, to poll on; newest first the log has an end."""
    if search.newest_first and not page.more:
        return None
    return search.url(asking.base, min(page.reached, HIGHEST_POSITION))


def _wait(request: web.Request) -> int | None:
    """Seconds; a preference that cannot be understood is no error (RFC 7240, section 2)."""
    text = preferences(request).get("wait", "")
    return min(int(text[:9]), LONGEST_WAIT) if text.isascii() and text.isdigit() else None


def _applied(asking: Asking, wait: int | None) -> dict[str, str]:
    applied = [f"wait={wait}"] if wait is not None else []
    if asking.is_strict:
        applied.append("handling=strict")
    return {"Preference-Applied": ", ".join(applied)} if applied else {}


def _gone(after: int, first_left: int) -> Gone:
    return Gone(
        f"messages that followed position {after} are gone by retention; the first position left is {first_left}:"
        f" go on with _offset={first_left - 1}",
        id="position-gone",
        expression="http._offset",
    )

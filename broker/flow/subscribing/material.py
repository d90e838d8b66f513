"""What events point to: the messages they happened in, each loaded and opened once for all who hear of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from broker.core.fhir.header import Format, Header, Release
from broker.core.ids import MessageIds
from broker.core.message import Message
from broker.core.subscription import foreign
from broker.core.subscription.content import Content, Entry, opened
from broker.core.subscription.foreign import Foreign
from broker.core.subscription.notification import Carried, carried
from broker.core.subscription.topic import Interaction
from broker.store import Stored
from broker.store.telling import Heard

KEPT = 256  # messages that are open
KEPT_BYTES = 32 << 20
LARGE = 256 * 1024  # bytes; what is larger is opened beside the loop


class Shelf(Protocol):
    """The store, as far as messages are read from it."""

    async def load(self, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]: ...
    async def body(self, position: int) -> bytes | None: ...


class Source:
    """A message that events happened in."""

    def __init__(self, position: int, id: str, message: Message | None, body: bytes | None, url: str) -> None:
        self.position = position
        self.id = id
        self.message = message  # None: not even its trace is left
        self.body = body  # None: retention took it
        self._url = url
        self._content: Content | None = None
        self._told: dict[tuple[tuple[int, ...], Interaction | None], tuple[Carried, tuple[Carried, ...]]] = {}

    def open(self) -> None:
        """May take long with what is large."""
        if self._content is None and self.message is not None and self.body is not None:
            self._content = Content(self.body, self.message.header)

    @property
    def entries(self) -> Sequence[Entry]:
        return () if self._content is None else self._content.entries

    def told(self, heard: Heard) -> tuple[Carried, tuple[Carried, ...]]:
        """The focus of an event, and what goes along."""
        key = (heard.places, heard.interaction)
        found = self._told.get(key)
        if found is None:
            found = self._told[key] = self._read(heard)
        return found

    def _read(self, heard: Heard) -> tuple[Carried, tuple[Carried, ...]]:
        entries = [self.entries[place] for place in heard.places if place < len(self.entries)]
        if not entries:  # it is about the message itself, or nothing but its name is left
            return self._whole(heard.interaction if self.body is None else Interaction.CREATE), ()
        focus, *more = entries
        return carried(focus, interaction=heard.interaction, with_body=True), tuple(
            [carried(one, interaction=one.interaction, with_body=True) for one in more]
        )

    def _whole(self, interaction: Interaction | None) -> Carried:
        return Carried(
            reference=self._url,
            type="Bundle",
            id=self.id,
            interaction=interaction,
            body=self.body or b"",
            format=Format.JSON if self.message is None else self.message.header.format,
            release=Release.R4 if self.message is None else self.message.header.release,
        )

    def relayed(self) -> Foreign | None:
        """The notification of another server that the message is, or holds."""
        if self.message is None or self.body is None:
            return None
        header = self.message.header
        return foreign.read_notification(self.body, format=header.format, release=header.release)


class Material:
    def __init__(self, *, store: Shelf, ids: MessageIds, base_url: str) -> None:
        self._store = store
        self._ids = ids
        self._base = base_url.rstrip("/")
        self._sources: OrderedDict[int, asyncio.Future[Source]] = OrderedDict()
        self._bytes = 0

    async def of(self, position: int) -> Source:
        """The message at a position; whoever asks while it is loaded waits for the same."""
        known = self._sources.get(position)
        if known is not None:
            self._sources.move_to_end(position)
            return known.result() if known.done() else await asyncio.shield(known)
        future: asyncio.Future[Source] = asyncio.get_running_loop().create_future()
        self._sources[position] = future
        try:
            source = await self._load(position)
        except BaseException as error:
            self._sources.pop(position, None)
            future.set_exception(error if isinstance(error, Exception) else ConnectionAbortedError())
            future.exception()  # whoever waits hears of it; nobody need
            raise
        future.set_result(source)
        self._bytes += len(source.body or b"")
        self._tidy()
        return source

    async def _load(self, position: int) -> Source:
        loaded = await self._store.load((position,), LARGE)
        stored, body = loaded.get(position, (None, None))
        if body is None and stored is not None and stored.body_kept:
            body = await self._store.body(position)
        id = self._ids.of(position)
        source = Source(position, id, None if stored is None else stored.message, body, f"{self._base}/Bundle/{id}")
        if len(body or b"") > LARGE:
            await asyncio.to_thread(source.open)
        else:
            source.open()
        return source

    def _tidy(self) -> None:
        """The one that was asked for longest ago goes first; what is being loaded stays."""
        while len(self._sources) > KEPT or (self._bytes > KEPT_BYTES and len(self._sources) > 1):
            position, oldest = next(iter(self._sources.items()))
            if not oldest.done():
                return
            del self._sources[position]
            self._bytes -= len(oldest.result().body or b"")


def tells_more(notification: Foreign, header: Header, *, names: bool, shows: bool) -> bool:
    """Whether a notification of another server says more than a subscriber is told: names, or resources."""
    if not names and notification.focus:
        return True
    entries = opened(notification.body, format=header.format, release=header.release).entries[1:]
    return (not names and bool(entries)) or (not shows and any(entry.raw for entry in entries))

"""Tell: follows the log, finds what topics tell of in each message and who hears of it, and gives events their numbers.

It comes after acceptance and never in it: what it does not get to, it finds in the log later, since its position is
written with the events. Messages that nobody asked about cost a look at their bytes, and where nobody has subscribed,
not even that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import structlog

from broker.core.message import Message
from broker.core.subscription.content import Content, Place
from broker.core.subscription.notification import MARK
from broker.core.subscription.occurrence import Occurrence, Topics
from broker.core.subscription.relay import Relayed, relayed
from broker.core.subscription.subscription import Content as Level
from broker.flow.aside import ASIDE, Aside
from broker.flow.here import Here
from broker.flow.meter import Meter
from broker.flow.subscribing.registry import Registry
from broker.store import StoreError
from broker.store.telling import Logged, NewEvent, Telling

log = structlog.get_logger("broker.tell")

PAGE = 256  # messages that are read at once
LARGEST = 256 << 10  # bytes; what is larger is read alone, and taken apart beside the loop
MOST = 4 << 20  # bytes of a page
HEARD = 5_000  # numbers given in one transaction: the messages behind it wait some ten milliseconds
AT_ONCE = 500  # subscriptions whose numbers are made known before others have their turn
SLICE = 0.004  # seconds of looking into messages before others have their turn
GATHER = 0.05  # seconds between two pages: under load, fewer and fuller ones are read
IDLE = timedelta(seconds=5)  # where nobody hears of anything, the position is written no more often
AGAIN = 1.0  # seconds after which a store that failed is asked once more


class Bodies(Protocol):
    """Where large messages are read."""

    async def body(self, position: int) -> bytes | None: ...


class Teller:
    """The one who follows the log."""

    def __init__(
        self, *, here: Here, store: Telling, bodies: Bodies, aside: Aside, registry: Registry, meter: Meter
    ) -> None:
        self._here = here
        self._store = store
        self._bodies = bodies
        self._aside = aside
        self._registry = registry
        self._meter = meter
        self._wake = asyncio.Event()
        self._at: int | None = None  # the position up to which it has told; None before the store has said
        self._written = self._looked = (
            here.now() - IDLE
        )  # when that was written; when the end of the log was looked for
        self._behind: datetime | None = None  # when the first of what it has not told was accepted
        self._too_much: set[tuple[int, str]] = set()  # what was said of those who may not be told as much
        store.on_commit(self._wake.set)

    @property
    def behind(self) -> timedelta:
        """How long the first message that was not looked at has been waiting."""
        return timedelta() if self._behind is None else max(self._here.now() - self._behind, timedelta())

    async def start(self) -> None:
        """Returns once it is known, and noted, where it begins: what is accepted from now on will be told."""
        await self._find_out()

    async def run(self) -> None:
        """Follows the log until cancelled."""
        loop = asyncio.get_running_loop()
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = loop.time()
            try:
                more = await self.once()
            except StoreError as error:
                log.warning("events are not told for now; they are when the store can be read again", error=str(error))
                self._waits_since(self._behind or self._here.now())
                more = True
                await asyncio.sleep(AGAIN)
            if more:
                self._wake.set()
            else:
                await asyncio.sleep(began + GATHER - loop.time())

    async def once(self) -> bool:
        """Tells of the next messages; says whether there are more at once."""
        at = await self._find_out() if self._at is None else self._at
        if not self._registry.anybody_hears:
            return await self._pass_over()
        page = await self._store.log(at, PAGE, LARGEST, MOST)
        self._waits_since(page.entries[0].accepted if page.entries else None)
        await self._tell_of(page.entries, page.reached)
        self._waits_since(page.entries[-1].accepted if page.more and page.entries else None)
        return page.more

    async def _pass_over(self) -> bool:
        """Nobody is there to hear of what is in the log: it is not read, and the position follows now and then."""
        now = self._here.now()
        if now - self._looked < IDLE:
            return False
        newest = await self._store.newest()
        if self._registry.anybody_hears:  # whoever subscribed meanwhile hears of what was accepted since
            return True
        self._looked = now
        await self._move_to(newest, ())
        return False

    def _waits_since(self, accepted: datetime | None) -> None:
        self._behind = accepted
        self._meter.behind(self.behind.total_seconds())

    # -- a page

    async def _tell_of(self, entries: Sequence[Logged], reached: int) -> None:
        loop = asyncio.get_running_loop()
        events: list[NewEvent] = []
        numbers, turn = 0, loop.time()
        for entry in entries:
            found = await self._events_of(entry)
            events += found
            numbers += sum([len(event.hearers) for event in found])
            if numbers >= HEARD:
                await self._move_to(entry.position, events)
                events, numbers = [], 0
            if loop.time() - turn > SLICE:
                await asyncio.sleep(0)
                turn = loop.time()
        await self._move_to(reached, events)

    async def _move_to(self, position: int, events: Sequence[NewEvent]) -> None:
        """Events, their numbers and how far they were told are one transaction; memory follows it.

        Where there were none, the position is written now and then: after a restart some is looked into once more.
        """
        if self._at is None or position <= self._at:
            return
        now = self._here.now()
        if not events and now - self._written < IDLE:
            self._at = position
            return
        try:
            numbers = await self._store.tell(position, events)
        except StoreError:  # it may yet be written: the store is asked before anything is told again
            self._at = None
            raise
        self._at, self._written = position, now
        await self._count(numbers)
        if events:
            self._meter.told(len(events), sum([len(event.hearers) for event in events]))

    async def _count(self, numbers: Mapping[int, int]) -> None:
        """What was given is known to all; of thousands, a few at a time."""
        keys = tuple(numbers)
        for start in range(0, len(keys), AT_ONCE):
            if start:
                await asyncio.sleep(0)
            self._registry.count({key: numbers[key] for key in keys[start : start + AT_ONCE]})

    async def _find_out(self) -> int:
        """How far it was told, and what was counted, as far as memory does not know it."""
        at = await self._store.told()
        await self._count({row.key: row.counted for row in await self._store.subscribed()})
        self._at = at
        return at

    # -- a message

    async def _events_of(self, entry: Logged) -> list[NewEvent]:
        """What a message is to be told of; one that cannot be read keeps nobody from hearing of the others."""
        try:
            if entry.body is not None:
                return self._found(entry, entry.body)
            if entry.message.size <= LARGEST:
                return []  # its bytes are gone, by retention
            return await self._beside(entry)
        except StoreError:
            raise
        except Exception as error:  # its words may quote the message
            log.warning("a message is told to nobody, since looking into it failed",
                        id=self._here.ids.of(entry.position), error=type(error).__name__)  # fmt: skip
            return []

    def _found(self, entry: Logged, body: bytes) -> list[NewEvent]:
        topics = self._registry.topics
        if not topics.may_concern(entry.event, entry.format, body) or entry.message.header.opaque:
            return []
        return self._heard(entry, _find(entry.message, body, topics, marked=MARK in body))

    async def _beside(self, entry: Logged) -> list[NewEvent]:
        """A large message: it is taken apart elsewhere and looked through in a thread; who hears is found here."""
        body, topics, message = await self._bodies.body(entry.position), self._registry.topics, entry.message
        if body is None or message.header.opaque:
            return []
        places, marked = None, True
        if len(body) > ASIDE:
            places, marked = await self._aside.entries(message.media_type, body)
            if not marked and not topics.may_concern_types(entry.event, {one.type for one in places or ()}):
                return []
        return self._heard(entry, await asyncio.to_thread(_find, message, body, topics, places, marked=marked))

    def _heard(self, entry: Logged, found: Found) -> list[NewEvent]:
        content, passing = found.content, found.passing
        if passing is not None:
            return self._heard_of_relayed(entry, passing) if passing.is_event else []
        places = {id(one): place for place, one in enumerate(content.entries)}
        events = []
        for occurrence in found.occurrences:
            hearers = self._since_created(self._registry.hearing(occurrence, content.aliases), entry)
            if hearers:
                inside = (occurrence.focus, *occurrence.more) if occurrence.focus is not None else occurrence.more
                events.append(
                    NewEvent(
                        position=entry.position,
                        at=entry.accepted,
                        topic=_canonical(occurrence),
                        places=tuple([places[id(one)] for one in inside]),
                        interaction=occurrence.interaction,
                        hearers=hearers,
                    )
                )
        return events

    def _heard_of_relayed(self, entry: Logged, passing: Relayed) -> list[NewEvent]:
        """Told whole or not at all: to those whose filters meet a focus, or who have none, and may be told as much."""
        registry, about = self._registry, passing.about(entry.message.header)
        keys = dict.fromkeys(key for one in passing.occurrences for key in registry.hearing(one))
        for key in registry.hearing(about):
            row = registry.get(key)
            if row is not None and not row.subscription.filters:
                keys[key] = None
        hearers = self._since_created([key for key in keys if self._may_be_told(key, passing)], entry)
        if not hearers:
            return []
        return [
            NewEvent(
                position=entry.position, at=entry.accepted, topic=_canonical(about), relayed=True, hearers=hearers,
            )
        ]  # fmt: skip

    def _may_be_told(self, key: int, passing: Relayed) -> bool:
        """Its bytes are not ours to thin, so that whoever is told less than they say is not told (S-63)."""
        row = self._registry.get(key)
        if row is None:
            return False
        if not passing.content.exceeds(row.subscription.content or Level.ID_ONLY):
            return True
        said = (key, passing.foreign.subscription)
        if said not in self._too_much and len(self._too_much) < 1000:
            self._too_much.add(said)
            log.warning("notifications of another server tell more than a subscriber may be told: it is not told",
                        subscription=row.subscription.id, content=passing.content.value)  # fmt: skip
        return False

    def _since_created(self, keys: Sequence[int], entry: Logged) -> tuple[int, ...]:
        """Without those who subscribed after the message had been accepted: it was not there for them."""
        registry, hearers = self._registry, []
        for key in keys:
            row = registry.get(key)
            if row is not None and (row.version > 1 or entry.accepted >= row.changed):
                hearers.append(key)
        return tuple(hearers)


class Found(NamedTuple):
    """What topics tell of in a message."""

    content: Content
    occurrences: Sequence[Occurrence] = ()
    passing: Relayed | None = None  # it is a notification of another server, and nothing else


def _find(
    message: Message, body: bytes, topics: Topics, places: Sequence[Place] | None = None, *, marked: bool = True
) -> Found:
    header = message.header
    content = Content(body, header, places)
    passing = relayed(body, header, topics, way_in=message.way_in) if marked else None
    return Found(content, topics.occurrences(content)) if passing is None else Found(content, passing=passing)


def _canonical(occurrence: Occurrence) -> str:
    topic = occurrence.topic
    return f"{topic.url}|{topic.version}" if topic.version else topic.url

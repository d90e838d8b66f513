"""Brings back what a subscription has heard: its events, with the resources of the messages they happened in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import instant
from broker.core.outcome import Refusal
from broker.core.subscription.content import Content as Opened
from broker.core.subscription.notification import About, Carried, Event, carried
from broker.core.subscription.subscription import Content, Subscription
from broker.flow.here import Here
from broker.flow.subscribing.registry import Registry
from broker.store import Stored
from broker.store.telling import Heard, Subscribed

SEGMENTS = {Release.R4: "R4", Release.R4B: "R4B"}  # of the base that a release is pinned at; R5 for the later ones
LARGEST = 8 << 20  # bytes of a message that is opened for its events


class Kept(Protocol):
    async def load(self, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]: ...


class Recalling:
    def __init__(self, *, here: Here, store: Kept, registry: Registry) -> None:
        self._here = here
        self._store = store
        self._registry = registry

    def url(self, subscription: Subscription) -> str:
        """The full URL of a Subscription, at the base of its release."""
        return f"{self._here.base_url}/{SEGMENTS.get(subscription.release, 'R5')}/Subscription/{subscription.id}"

    def about(
        self, row: Subscribed, *, written: tuple[Format, Release] | None = None, content: Content | None = None
    ) -> About:
        """What notifications say of it; `written`: in which format and release, `content`: where it is to be less."""
        subscription = row.subscription
        format, release = written or (Format.JSON, subscription.release)
        agreed = subscription.content or Content.ID_ONLY
        return About(
            url=self.url(subscription),
            topic=subscription.topic,
            status=row.life.status,
            since_start=row.counted,
            content=content if content is not None and agreed.exceeds(content) else agreed,
            release=release,
            format=format,
        )

    async def events(self, row: Subscribed, heard: Sequence[Heard], content: Content | None = None) -> list[Event]:
        """In their order. Of what retention took, and of what is too large, number and time are left."""
        level = self.about(row, content=content).content
        opened: dict[int, Opened] = {}
        if level is not Content.EMPTY:
            opened = await self._opened({one.position for one in heard})
        return [self._event(row, one, opened, level) for one in heard]

    async def _opened(self, positions: set[int]) -> dict[int, Opened]:
        loaded = await self._store.load(sorted(positions), LARGEST)
        return await asyncio.to_thread(_open, loaded)

    def _event(self, row: Subscribed, one: Heard, opened: Mapping[int, Opened], content: Content) -> Event:
        topic = self._registry.topic_of(row.subscription)
        query = topic.query.replace("{since}", instant(one.at)) if topic is not None and topic.query else ""
        message = opened.get(one.position)
        if message is None:
            return Event(number=one.number, at=one.at, query=query)
        full = content is Content.FULL
        if not one.places:
            return Event(number=one.number, at=one.at, focus=self._whole(one, message, full), query=query)
        entries = [message.entries[place] for place in one.places if place < len(message.entries)]
        focus = carried(entries[0], interaction=one.interaction, with_body=full) if entries else None
        more = tuple(carried(entry, with_body=full) for entry in entries[1:])
        return Event(number=one.number, at=one.at, focus=focus, more=more, query=query)

    def _whole(self, one: Heard, message: Opened, full: bool) -> Carried:
        id = self._here.ids.of(one.position)
        return Carried(
            reference=f"{self._here.base_url}/Bundle/{id}",
            type="Bundle",
            id=id,
            body=message.body if full else b"",
            format=message.header.format,
            release=message.header.release,
        )


def _open(loaded: Mapping[int, tuple[Stored, bytes | None]]) -> dict[int, Opened]:
    found = {}
    for position, (stored, body) in loaded.items():
        if body is None:
            continue
        try:
            found[position] = Opened(body, stored.message.header)
        except Refusal:  # it was read when it came; a later release may read more strictly
            continue
    return found

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
from broker.core.subscription.subscription import Content
from broker.flow.here import Here
from broker.flow.subscribing.registry import Registry
from broker.store import Stored
from broker.store.telling import Heard, Subscribed

SEGMENTS = {Release.R4: "R4", Release.R4B: "R4B"}  # of the base that a release is pinned at; R5 for the later ones
LARGEST = 8 << 20  # bytes of a message that is opened for its events
PART = 16  # messages read at a time


class Kept(Protocol):
    async def load(self, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]: ...


def url_of(here: Here, row: Subscribed) -> str:
    """The full URL of a subscription, at the base of its release."""
    return f"{here.base_url}/{SEGMENTS.get(row.subscription.release, 'R5')}/Subscription/{row.subscription.id}"


def about(here: Here, row: Subscribed, *, format: Format, release: Release | None) -> About:
    """What notifications say of it; in its own release unless another is asked for."""
    subscription = row.subscription
    return About(
        url=url_of(here, row),
        topic=subscription.topic,
        status=row.life.status,
        since_start=row.counted,
        content=subscription.content or Content.ID_ONLY,
        release=release or subscription.release,
        format=format,
    )


class Recalling:
    def __init__(self, *, here: Here, store: Kept, registry: Registry) -> None:
        self._here = here
        self._store = store
        self._registry = registry

    async def events(self, row: Subscribed, heard: Sequence[Heard], *, content: Content, most: int) -> list[Event]:
        """In their order, until there are `most` bytes of resources.

        Of what retention took, and of what is too large, number and time are left.
        """
        found: list[Event] = []
        size = 0
        for at in range(0, len(heard), PART):
            part = heard[at : at + PART]
            opened: dict[int, Opened] = {}
            if content is not Content.EMPTY:
                opened = await self._opened({one.position for one in part})
            told = [self._event(row, one, opened, content) for one in part]
            found += told
            size += sum(len(one.body) for event in told for one in (event.focus, *event.more) if one is not None)
            if size > most:
                break
        return found

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

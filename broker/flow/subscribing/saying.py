"""What is said on sockets: Bundles of the subscription's own media type, as texts."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.fhir.media import media_type
from broker.core.subscription.content import Content as Opened
from broker.core.subscription.notification import About, Carried, Event, Kind, carried, notification
from broker.core.subscription.subscription import Content
from broker.flow.here import Here
from broker.store import Store
from broker.store.telling import Heard, Subscribed

LARGEST = 8 << 20  # bytes of messages that are opened for one notification


class Saying:
    def __init__(self, *, here: Here, store: Store) -> None:
        self._here = here
        self._store = store

    def status(self, row: Subscribed, kind: Kind) -> str:
        return self._written(kind, row, ())

    async def events(self, row: Subscribed, heard: Sequence[Heard]) -> tuple[str, int]:
        positions = sorted({one.position for one in heard})
        loaded = await self._store.load(positions, LARGEST)
        contents = {
            position: Opened(body, stored.message.header)
            for position, (stored, body) in loaded.items()
            if body is not None
        }
        events = [self._event(row, one, contents.get(one.position)) for one in heard]
        return self._written(Kind.EVENT, row, events), heard[-1].number

    def _event(self, row: Subscribed, heard: Heard, content: Opened | None) -> Event:
        told: list[Carried] = []
        if content is not None and heard.places:
            full = row.subscription.content is Content.FULL
            told = [
                carried(content.entries[place], interaction=None if at else heard.interaction, with_body=full)
                for at, place in enumerate(heard.places)
            ]
        return Event(number=heard.number, at=heard.at, focus=told[0] if told else None, more=tuple(told[1:]))

    def _written(self, kind: Kind, row: Subscribed, events: Sequence[Event]) -> str:
        subscription, here = row.subscription, self._here
        named = media_type(subscription.media_type) if subscription.media_type else None
        about = About(
            url=f"{here.base_url}/Subscription/{subscription.id}",
            topic=subscription.topic,
            status=row.life.status,
            since_start=row.counted,
            content=subscription.content or Content.ID_ONLY,
            release=(named.release if named else None) or subscription.release,
            **({} if named is None else {"format": named.format}),
        )
        ids = (here.new_id(), here.new_id())
        return notification(kind, about, ids=ids, at=here.now(), events=events).decode()

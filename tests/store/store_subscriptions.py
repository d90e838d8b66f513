"""Subscriptions and events that the store's tests write."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from store_values import NOW, new

from broker.core.fhir.header import Release
from broker.core.message import Fate
from broker.core.subscription.life import Life
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Content, Header, Model, Status, Subscription
from broker.store import NewMessage
from broker.store.sqlite import SqliteStore
from broker.store.telling import NewEvent, Subscribed

SECRET = "Bearer do-not-show"
ACTIVE = Life(status=Status.ACTIVE, was_active=True, since=NOW, last_sent=NOW)


def subscription(id: str = "s1", **more: Any) -> Subscription:
    values: dict[str, Any] = {
        "model": Model.NATIVE, "release": Release.R5, "status": Status.REQUESTED, "id": id, "topic": "http://topic|1",
        "channel": ChannelType(R5_CHANNELS, "rest-hook"), "endpoint": "https://sub.example/in",
        "headers": (Header("Authorization", SECRET),), "content": Content.ID_ONLY, "end": NOW + timedelta(days=9),
        "heartbeat": timedelta(seconds=90), "max_count": 3, "kept": b'{"name":"n"}',
    }  # fmt: skip
    return Subscription(**values | more)


async def subscribed(store: SqliteStore, id: str = "s1", life: Life = ACTIVE, **more: Any) -> Subscribed:
    row = await store.subscribe(subscription(id, **more), life, owner="party", at=NOW, most=1_000_000)
    assert row is not None
    return row


def event(position: int, *hearers: int, **more: Any) -> NewEvent:
    return NewEvent(**{"position": position, "at": NOW, "topic": "http://topic", "hearers": hearers, **more})


def notification(identity: str | None = None, **more: Any) -> NewMessage:
    return new(identity, fate=Fate.NOTICE, source="urn:broker", **more)


async def numbers(store: SqliteStore, key: int) -> list[int]:
    return [one.number for one in await store.heard(key, 0, 1 << 60, 1_000_000)]

"""Subscribers of an in-process broker: the real registry and teller, driven page by page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flow_post import Post, message

from broker.core.fhir.header import Release
from broker.core.policy import DEFAULT
from broker.core.subscription.life import Life
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Content, Filter, Model, Status, Subscription
from broker.core.subscription.topic import EventTrigger, FilterBy, ResourceTrigger, Shape, Topic
from broker.flow.meter import NoMeter
from broker.flow.subscribing.keep import Keeping
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.tell import Teller
from broker.store.telling import Heard, Subscribed

ADMISSIONS = "http://t.example/admissions"
ENCOUNTERS = "http://t.example/encounters"
ELSEWHERE = "http://t.example/elsewhere"
TOPICS = (
    Topic(url=ADMISSIONS, events=(EventTrigger(event="admit", focus="Bundle"),)),
    Topic(
        url=ENCOUNTERS,
        version="1",
        resources=(ResourceTrigger(resource="Encounter"),),
        filters=(FilterBy(parameter="patient", resource="Encounter"),),
        shapes=(Shape(resource="Encounter", include=("Encounter:patient",)),),
    ),
    Topic(url=ELSEWHERE, relayed=True, way_in="south", filters=(FilterBy(parameter="patient", resource="Encounter"),)),
)
ACTIVE = Life(status=Status.ACTIVE, was_active=True)


class Counting(NoMeter):
    """What the meter was told."""

    def __init__(self) -> None:
        self.events = self.numbers = 0
        self.lag: list[float] = []

    def told(self, events: int, numbers: int) -> None:
        self.events += events
        self.numbers += numbers

    def behind(self, seconds: float) -> None:
        self.lag.append(seconds)


class Telling:
    """One broker's subscribers, as the parts are joined; a crash is another one on the same file."""

    def __init__(self, post: Post, topics: Sequence[Topic] = TOPICS) -> None:
        self.post, self.store = post, post.store
        self.registry, self.meter = Registry(topics), Counting()
        self.changed: list[int] = []
        self.registry.on_change(self.changed.append)
        self.teller = Teller(
            here=post.here,
            store=post.store,
            bodies=post.store,
            aside=post.aside,
            registry=self.registry,
            meter=self.meter,
        )
        keeping = Keeping(here=post.here, registry=self.registry, policy=DEFAULT)
        post.accepting.for_subscribers = keeping.route

    async def load(self) -> Telling:
        self.registry.load(await self.store.subscribed())
        await self.teller.start()
        return self

    async def subscribe(
        self, id: str, topic: str = ADMISSIONS, *, life: Life = ACTIVE, at: datetime | None = None, **more: Any
    ) -> Subscribed:
        filters = tuple(Filter(parameter=name, value=value) for name, value in more.pop("filters", {}).items())
        subscription = Subscription(
            id=id, model=Model.NATIVE, release=Release.R5, status=Status.ACTIVE, topic=topic, filters=filters,
            channel=ChannelType(R5_CHANNELS, "rest-hook"), endpoint="https://sub.example/in",
            **{"content": Content.ID_ONLY, **more},
        )  # fmt: skip
        row = await self.store.subscribe(subscription, life, owner="", at=at or self.post.now, most=100_000)
        assert row is not None
        self.registry.put(row)
        return row

    async def told(self) -> None:
        """Until nothing is left to be told."""
        while await self.teller.once():
            pass

    async def heard(self, row: Subscribed) -> tuple[Heard, ...]:
        return await self.store.heard(row.key, 0, 1 << 60, 100_000)

    async def numbers(self, row: Subscribed) -> list[int]:
        return [one.number for one in await self.heard(row)]

    def counted(self, row: Subscribed) -> int:
        known = self.registry.get(row.key)
        assert known is not None
        return known.counted


def admission(number: int | str = 1, **more: Any) -> bytes:
    return message(f"b{number}", f"m{number}", **{"event": "admit", **more})


def encounter(number: int = 1, patient: int = 1, **more: Any) -> bytes:
    """A message about an Encounter, with its Patient before it."""
    whole = json.loads(message(f"b{number}", f"m{number}", **more))
    about = {"resourceType": "Encounter", "id": f"e{number}", "subject": {"reference": f"Patient/p{patient}"}}
    who = {"resourceType": "Patient", "id": f"p{patient}"}
    whole["entry"] += [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one} for one in (who, about)]
    return json.dumps(whole).encode()


def notification(
    id: str = "n1", *, kind: str = "event-notification", topic: str | None = ELSEWHERE, full: int | None = None
) -> bytes:
    """What another server sends; `full` is the number of the patient of the resource in it."""
    status: dict[str, Any] = {
        "resourceType": "SubscriptionStatus", "type": kind, "eventsSinceSubscriptionStart": "7",
        "subscription": {"reference": "https://s.example/fhir/Subscription/1"},
    }  # fmt: skip
    if topic is not None:
        status["topic"] = topic
    entries: list[dict[str, Any]] = [{"resource": status}]
    if kind == "event-notification":
        status["notificationEvent"] = [
            {"eventNumber": "7", "focus": {"reference": "https://s.example/fhir/Encounter/7"}}
        ]
    if full is not None:
        about = {"resourceType": "Encounter", "id": "7", "subject": {"reference": f"Patient/p{full}"}}
        entries.append({"fullUrl": "https://s.example/fhir/Encounter/7", "resource": about})
    return json.dumps(
        {"resourceType": "Bundle", "id": id, "type": "subscription-notification", "entry": entries}
    ).encode()

"""Subscriptions as a running broker has them, for tests of the service and of what stands in front of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from subscribed import ENCOUNTERS, r5

from broker.core.address_pattern import AddressPattern, AddressPatterns
from broker.core.delivery import State
from broker.core.envelope import EMPTY
from broker.core.fhir.header import Format, Release
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.ids import MessageIds
from broker.core.message import Fate, Message
from broker.core.policy import DEFAULT
from broker.core.subscription.life import Happening, Policy, after
from broker.core.subscription.notification import Kind
from broker.core.subscription.offering import channels_offered
from broker.core.subscription.subscription import BACKPORT, Content
from broker.core.subscription.topic import (
    EventTrigger,
    FilterBy,
    Interaction,
    ResourceTrigger,
    Shape,
    Topic,
)
from broker.flow.here import Here
from broker.flow.subscribing.composing import Composing
from broker.flow.subscribing.material import Material
from broker.flow.subscribing.moves import Moves
from broker.flow.subscribing.offers import Offers
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.service import Service
from broker.store import Kept, NewDelivery, NewMessage
from broker.store.sqlite import SqliteStore
from broker.store.telling import NewEvent, Subscribed

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BASE_URL = "https://broker.example/fhir"
SOCKETS = "wss://broker.example/subscriptions"
ADMISSIONS = "http://example.org/topics/admission"
ALLOWED = (
    "https://example.org/*", "https://subscriptions.argo.run/*", "https://broker.example/*", "http://plain.example/*",
)  # fmt: skip
TOPICS = (
    Topic(
        url=ENCOUNTERS,
        version="1.0.0",
        title="encounter-complete",
        description="Encounters that have ended",
        resources=(ResourceTrigger(resource="Encounter"),),
        filters=(FilterBy(parameter="patient", resource="Encounter"), FilterBy(parameter="length")),
        shapes=(Shape(resource="Encounter", include=("Encounter:patient",)),),
    ),
    Topic(
        url=ADMISSIONS,
        title="Admissions",
        events=(EventTrigger(event="admit"),),
        query="https://s.example/?_lastUpdated=gt{since}",
    ),
)
MESSAGE = orjson.dumps(
    {
        "resourceType": "Bundle",
        "id": "b1",
        "type": "message",
        "entry": [
            {
                "fullUrl": "urn:uuid:00000000-0000-4000-8000-000000000001",
                "resource": {
                    "resourceType": "MessageHeader",
                    "id": "m1",
                    "eventCoding": {"system": "http://example.org/events", "code": "admit"},
                    "source": {"endpoint": "urn:oid:1.1"},
                },
            },
            {
                "fullUrl": "https://source.example/fhir/Encounter/e1",
                "resource": {"resourceType": "Encounter", "id": "e1", "status": "finished", "class": {"code": "IMP"}},
            },
            {
                "fullUrl": "https://source.example/fhir/Patient/p1",
                "resource": {"resourceType": "Patient", "id": "p1"},
            },
        ],
    }
)


def backport(*, channel: dict[str, Any] | None = None, content: str = "id-only", **changed: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to know",
        "criteria": ENCOUNTERS,
        "channel": {
            "type": "rest-hook",
            "endpoint": "https://example.org/hook",
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{BACKPORT}payload-content", "valueCode": content}]},
            **(channel or {}),
        },
    }
    return {name: value for name, value in (known | changed).items() if value is not None}


def classic(**changed: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to know",
        "criteria": "Encounter?status=finished",
        "channel": {"type": "rest-hook", "endpoint": "https://example.org/hook"},
    }
    return {name: value for name, value in (known | changed).items() if value is not None}


SOCKET = {"channelType": {"code": "websocket"}, "endpoint": None}


@dataclass
class Subscribing:
    """A service over a real store, a clock in hand."""

    store: SqliteStore
    registry: Registry
    service: Service
    here: Here
    clock: list[datetime]

    def passes(self, **time: float) -> None:
        self.clock[0] += timedelta(**time)

    async def subscribe(self, resource: dict[str, Any] | None = None, owner: str = "", **more: Any) -> Subscribed:
        """As a client would; a resource of R5 unless it says otherwise."""
        body = r5(**more) if resource is None else resource
        release = Release.R5 if "channelType" in body else Release.R4
        return await self.service.create(orjson.dumps(body), format=Format.JSON, release=release, owner=owner)

    async def update(self, row: Subscribed, resource: dict[str, Any], **more: Any) -> Subscribed:
        body = orjson.dumps({"id": row.subscription.id, **resource})
        release = Release.R5 if "channelType" in resource else Release.R4
        owner = more.pop("owner", "")
        return await self.service.update(
            row.subscription.id, body, format=Format.JSON, release=release, owner=owner, **more
        )

    async def happens(self, row: Subscribed, happening: Happening, error: str = "") -> Subscribed:
        """What other parts of the broker find out, written as they write it."""
        row = self.now(row)
        life = after(
            row.life,
            happening,
            now=self.clock[0],
            model=row.subscription.model,
            policy=Policy(error_after=1),
            error=error,
        )
        moved = await self.store.move(row.key, life)
        assert moved is not None
        self.registry.put(moved)
        return moved

    async def active(self, resource: dict[str, Any] | None = None, **more: Any) -> Subscribed:
        return await self.happens(await self.subscribe(resource, **more), Happening.GREETED)

    async def keep(self, body: bytes = MESSAGE) -> int:
        kept = await self.store.accept(self._new(body))
        assert isinstance(kept, Kept)
        return kept.position

    def _new(self, body: bytes, fate: Fate = Fate.MESSAGE, *deliveries: NewDelivery) -> NewMessage:
        header = read(body, media_type("application/fhir+json; fhirVersion=4.0"))
        message = Message(
            header=header, envelope=EMPTY, media_type="application/fhir+json", source="urn:oid:1.1",
            digest="sha-256=", size=len(body), channel="test", peer="", at=self.clock[0], fate=fate,
        )  # fmt: skip
        return NewMessage(
            message=message, body=body, digest=hashlib.sha256(body).digest(), source_key="urn:oid:1.1", identity=None,
            quotes=(), deliveries=deliveries,
        )  # fmt: skip

    async def sets_out(self, row: Subscribed, kind: Kind, **more: int) -> int:
        """A notification is under way, written as notices write it."""
        delivery = NewDelivery(
            destination=f"{BASE_URL}/Subscription/{row.subscription.id}", key=row.subscription.id,
            address=row.subscription.endpoint, lane="http:example.org:443", state=State.WAITING, due=self.clock[0],
            expiry=self.clock[0] + timedelta(days=1), policy=DEFAULT, fixed=True,
        )  # fmt: skip
        kept = await self.store.notice(row.key, self._new(MESSAGE, Fate.NOTICE, delivery), kind, **more)
        assert isinstance(kept, Kept)
        await self._reload()
        return kept.position

    async def _reload(self) -> None:
        for row in await self.store.subscribed():
            self.registry.put(row)

    async def hear(self, *rows: Subscribed, times: int = 1, places: tuple[int, ...] = (1, 2)) -> None:
        """An event of the Encounter in a message, for each of these."""
        for _ in range(times):
            position = await self.keep()
            event = NewEvent(
                position=position, at=self.clock[0], topic=ENCOUNTERS, places=places, interaction=Interaction.UPDATE,
                hearers=tuple(row.key for row in rows),
            )  # fmt: skip
            await self.store.tell(position, [event])
        await self._reload()

    async def written(self) -> None:
        """All that happened so far is on disk: the store writes in order."""
        await self.store.unsubscribe(0)

    async def sent(self, row: Subscribed, number: int) -> Subscribed:
        moved = await self.store.move(row.key, self.now(row).life, sent=number)
        assert moved is not None
        self.registry.put(moved)
        return moved

    def now(self, row: Subscribed) -> Subscribed:
        found = self.registry.get(row.key)
        assert found is not None
        return found

    async def reopened(self) -> Registry:
        """What a broker would find that starts on this store."""
        registry = Registry(TOPICS)
        registry.load(await self.store.subscribed())
        return registry


def subscribing(
    folder: Path, *, store: SqliteStore | None = None, here: Here | None = None, **more: Any
) -> Subscribing:
    clock = [START]
    store = store or SqliteStore(folder / "subscribed.db", now=lambda: clock[0])
    caps = more.pop("caps", {})
    cap, parties = more.pop("cap", Content.FULL), bool(caps)
    here = here or Here(
        endpoint="urn:oid:1.2.3", base_url=BASE_URL, ids=MessageIds(store.key), now=lambda: clock[0], parties=parties
    )
    registry = Registry(TOPICS)
    allowed = AddressPatterns(AddressPattern.parse(text) for text in ALLOWED)
    channels = more.pop("channels", ("http", "websocket", "email", "amqp"))
    most, room = more.pop("most", 100), more.pop("room", lambda: None)
    assert not more, more
    offers = Offers(
        base_url=BASE_URL,
        channels=channels_offered(channels, ALLOWED),
        topic=registry.topic,
        may_point_at=lambda endpoint: endpoint.startswith("mailto:") or allowed.match(endpoint),
        known=lambda endpoint: endpoint == "urn:oid:2.1",
        cap=lambda owner: caps.get(owner) or cap,
        parties=parties,
    )
    policy = Policy()
    service = Service(
        here=here, store=store, registry=registry, offers=offers, policy=policy, most=most, key=store.key,
        composing=Composing(
            here=here, material=Material(store=store, ids=here.ids, base_url=here.base_url), topic_of=registry.topic_of
        ),
        happens=Moves(here=here, telling=store, registry=registry, policy=policy, moved=lambda key: None).happens,
        token=lambda ids, now: ("sealed-" + ".".join(ids), now + timedelta(minutes=30)), sockets=lambda: SOCKETS,
        room=room,
    )  # fmt: skip
    return Subscribing(store, registry, service, here, clock)

"""A broker with subscriptions, for tests: the real flow, registry and store; what happens is told by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson
from flow_post import SENDER, Post, policy

from broker.channel import Transmission
from broker.core.fhir.header import Release
from broker.core.policy import Policy
from broker.core.subscription.life import Happening, Life, after
from broker.core.subscription.life import Policy as LifePolicy
from broker.core.subscription.subscription import (
    R5_CHANNELS,
    ChannelType,
    Content,
    Model,
    Status,
    Subscription,
)
from broker.core.subscription.topic import EventTrigger, Interaction, Topic
from broker.flow.subscribing.joined import Terms
from broker.store.telling import NewEvent, Subscribed

ADMISSIONS = "http://example.org/topics/admission"
ADMIT = Topic(
    url=ADMISSIONS, events=(EventTrigger(event="admit"),), query="https://source/Encounter?_lastUpdated=gt{since}"
)
HOOK = "test://hook/a"
RETRIES: dict[str, Any] = {"first": timedelta(seconds=1), "give_up": timedelta(seconds=60)}
PATIENT = {"resourceType": "Patient", "id": "p1", "active": True}


def admission(number: int = 1, *, encounter: dict[str, Any] | None = None, release: str = "4.0") -> bytes:
    """A message of an event, with an Encounter and its Patient; into the sender's own mailbox."""
    focus = encounter or {"resourceType": "Encounter", "id": f"e{number}", "status": "in-progress",
                          "class": {"code": "IMP"}}  # fmt: skip
    head = {
        "resourceType": "MessageHeader", "id": f"m{number}", "eventCoding": {"system": "http://e", "code": "admit"},
        "destination": [{"name": "it", "endpoint": SENDER}], "source": {"endpoint": "urn:oid:1.1"},
        "focus": [{"reference": f"Encounter/{focus['id']}"}],
    }  # fmt: skip
    return orjson.dumps({
        "resourceType": "Bundle", "id": f"b{number}", "type": "message", "timestamp": "2026-11-21T12:00:00Z",
        "entry": [
            {"fullUrl": f"urn:uuid:m{number}", "resource": head},
            {"fullUrl": f"https://source/fhir/Encounter/{focus['id']}", "resource": focus},
            {"fullUrl": "https://source/fhir/Patient/p1", "resource": PATIENT},
        ],
    })  # fmt: skip


def subscription(**changed: Any) -> Subscription:
    known: dict[str, Any] = {
        "model": Model.NATIVE,
        "release": Release.R5,
        "status": Status.REQUESTED,
        "channel": ChannelType(R5_CHANNELS, "rest-hook"),
        "id": "sub1",
        "topic": ADMISSIONS,
        "endpoint": HOOK,
        "content": Content.ID_ONLY,
        "media_type": "application/fhir+json",
    }
    return Subscription(**(known | changed))


class SubscribedPost(Post):
    """`Post` where somebody may subscribe."""

    def __init__(
        self,
        path: Path,
        *,
        topics: Sequence[Topic] = (ADMIT,),
        delivery: Policy | None = None,
        life: LifePolicy | None = None,
        cap: Content = Content.FULL,
        callback: str = "",
        may_point_at: Callable[[str], bool] = lambda endpoint: True,
        **more: Any,
    ) -> None:
        super().__init__(path, **more)
        self.terms = Terms(
            topics=topics, delivery=delivery or policy(retry=RETRIES), policy=life or LifePolicy(),
            cap=lambda owner: cap, callback=lambda subscription: callback, may_point_at=may_point_at,
        )  # fmt: skip

    def _join_more(self) -> dict[str, Any]:
        return {"telling": self.store, "subscriptions": self.terms}

    async def start(self) -> SubscribedPost:
        await super().start()
        assert self.flow.subscribing is not None
        self.subscribing = self.flow.subscribing
        self.registry, self.notices = self.subscribing.registry, self.subscribing.notices
        await self.subscribing.load()
        self._noticing = asyncio.ensure_future(self.notices.run())
        return self

    async def stop(self, seconds: float = 5) -> None:
        await self._end_noticing()
        await super().stop(seconds)

    async def crash(self) -> None:
        await self._end_noticing()
        await super().crash()

    async def _end_noticing(self) -> None:
        self._noticing.cancel()
        await asyncio.gather(self._noticing, return_exceptions=True)

    def _is_quiet(self) -> bool:
        return super()._is_quiet() and self.notices.is_idle and not self._is_due()

    def _is_due(self) -> bool:
        first = self.notices._timers.first()
        return first is not None and first <= self.now

    # -- what the service and the teller do

    async def subscribes(self, new: Subscription | None = None, *, active: bool = False) -> Subscribed:
        """A client creates one; `active`: and it has been greeted."""
        life = Life(since=self.now)
        if active:
            life = after(life, Happening.GREETED, now=self.now, model=Model.NATIVE)
        row = await self.store.subscribe(new or subscription(), life, owner="", at=self.now, most=100_000)
        assert row is not None
        self.registry.put(row)
        return row

    async def rewrites(self, row: Subscribed, happening: Happening, **changed: Any) -> Subscribed:
        """A client writes it anew."""
        now = self.registry.get(row.key)
        assert now is not None
        life = after(now.life, happening, now=self.now, model=now.subscription.model)
        new = msgspec.structs.replace(now.subscription, **changed)
        written = await self.store.rewrite(row.key, new, life, version=now.version, at=self.now)
        assert written is not None
        self.registry.put(written)
        return written

    async def happens(self, number: int = 1, *keys: int, places: tuple[int, ...] = (1, 2), **changed: Any) -> int:
        """A message passes through, and these subscriptions hear of it."""
        body = changed.pop("body", None) or admission(number)
        before = (await self.store.counts()).messages
        await self.send(body, media_type=changed.pop("media_type", "application/fhir+json"))
        position = (await self.mail())[-1].position
        assert (await self.store.counts()).messages > before
        known: dict[str, Any] = {"position": position, "at": self.now, "topic": ADMISSIONS, "places": places,
                                 "interaction": Interaction.CREATE, "hearers": keys}  # fmt: skip
        counts = await self.store.tell(position, (NewEvent(**(known | changed)),))
        for key, count in counts.items():
            row = self.registry.get(key)
            if row is not None:
                self.registry.put(msgspec.structs.replace(row, counted=count))
        return position

    def row(self, row: Subscribed) -> Subscribed:
        found = self.registry.get(row.key)
        assert found is not None
        return found

    def told(self, address: str = HOOK) -> list[dict[str, Any]]:
        """The status entries of what was sent there."""
        return [status_of(one) for one in self.script.to(address)]

    def numbers(self, address: str = HOOK) -> list[int]:
        """The event numbers that were sent there, in order."""
        return [
            int(event["eventNumber"])
            for status in self.told(address)
            if status["type"] == "event-notification"
            for event in status["notificationEvent"]
        ]


def status_of(sent: Transmission) -> dict[str, Any]:
    """The first entry of a notification Bundle."""
    first: dict[str, Any] = orjson.loads(sent.body)["entry"][0]["resource"]
    return first


Subscribing = Callable[..., Awaitable[SubscribedPost]]  # what the fixture `subscribing` does

"""What subscribers ask: subscriptions made, changed, read and removed, and what the operations say of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from broker.core.fhir.header import Format, Release
from broker.core.outcome import Busy, Conflict, NotFound, Problem, SubscriptionRefused
from broker.core.subscription.check import checked
from broker.core.subscription.consent import consent_token, consents_to, is_consent
from broker.core.subscription.life import Happening, Life, Policy, after, due
from broker.core.subscription.notification import About, Event, Kind, batches, notification, statuses
from broker.core.subscription.operations import Events, Resend
from broker.core.subscription.read import read_subscription
from broker.core.subscription.subscription import HIDDEN, Content, Model, Status, Subscription, with_secrets_of
from broker.core.subscription.topic import Topic
from broker.flow.here import Here
from broker.flow.subscribing.offers import Offers
from broker.flow.subscribing.registry import Registry
from broker.store.telling import NO_EVENT, Heard, Subscribed, Telling

log = structlog.get_logger("broker.subscriptions")

MOST_EVENTS = 1000  # of one answer to `$events`; who wants more asks again from the next number on
MOST_BYTES = 8 << 20  # of the resources in one
PART = 50  # events whose messages are in memory at once
RETRY_WHEN_FULL = 3600.0  # seconds: somebody has to leave first

# Seals ids of subscriptions, now; and says until when that is good.
Token = Callable[[Sequence[str], datetime], tuple[str, datetime]]
Withdraw = Callable[[int, str], Awaitable[bool]]


class Composing(Protocol):
    """Writes what subscribers are told."""

    def about(
        self, row: Subscribed, *, written: tuple[Format, Release] | None = None, content: Content | None = None
    ) -> About: ...
    async def events(self, row: Subscribed, heard: Sequence[Heard], content: Content | None = None) -> list[Event]: ...


class Service:
    """Each call names the `owner`: the party that asks, "" while none is known."""

    def __init__(
        self,
        *,
        here: Here,
        store: Telling,
        registry: Registry,
        composing: Composing,
        offers: Offers,
        policy: Policy,
        most: int,
        key: bytes,
        withdraw: Withdraw,
        token: Token | None = None,
        sockets: str = "",
    ) -> None:
        """`token` and `sockets` (the URL) are those of the channel that has sockets, where there is one."""
        self._here = here
        self._store = store
        self._registry = registry
        self._composing = composing
        self._offers = offers
        self._policy = policy
        self._most = most
        self._key = key
        self._withdraw = withdraw
        self._token = token
        self.sockets = sockets
        self.counted = 0  # events, each for each who hears of it, since the start
        self._known = {row.key: row.counted for row in registry}
        registry.on_change(self._count)

    def _count(self, key: int) -> None:
        row = self._registry.get(key)
        if row is None:
            self._known.pop(key, None)
            return
        self.counted += max(row.counted - self._known.get(key, row.counted), 0)
        self._known[key] = row.counted

    # -- what is there

    @property
    def topics(self) -> tuple[Topic, ...]:
        return self._registry.configured

    def all(self, owner: str | None) -> tuple[Subscribed, ...]:
        """Those that an owner may see, by key; None is the operator, who sees all."""
        return tuple(row for row in self._registry if self._is_theirs(row, owner))

    def get(self, id: str, owner: str | None) -> Subscribed:
        """One of them; what belongs to another is as unknown as what is not there."""
        row = self._registry.find(id)
        if row is None or not self._is_theirs(row, owner):
            raise NotFound("no Subscription has this id here", id="unknown-subscription", expression="http.id")
        return row

    def due(self, row: Subscribed) -> datetime | None:
        """When time alone will bring something: a heartbeat, its end, that of an error."""
        found = due(row.subscription, row.life, policy=self._policy)
        return None if found is None else found[0]

    def _is_theirs(self, row: Subscribed, owner: str | None) -> bool:
        return owner is None or not self._here.parties or row.owner == owner

    # -- written by clients

    async def create(self, body: bytes, *, format: Format, release: Release, owner: str) -> Subscribed:
        now = self._here.now()
        wanted = self._read(body, format, release)
        _refuse_hidden(wanted)
        wanted = self._checked(wanted, owner, now)
        wanted = msgspec.structs.replace(wanted, id=self._here.new_id())
        if wanted.status is Status.OFF:
            life = Life(status=Status.OFF, since=now)
        else:
            life = _greeted(wanted, Life(status=Status.REQUESTED, since=now), now)
        row = await self._store.subscribe(wanted, life, owner=owner, at=now, most=self._most)
        if row is None:
            raise Busy(
                f"there are {self._most} subscriptions, as many as the operator lets there be",
                id="too-many-subscriptions",
                retry_after=RETRY_WHEN_FULL,
            )
        self._registry.put(row)
        log.info("subscribed", id=wanted.id, model=wanted.model.value, topic=wanted.topic or wanted.criteria,
                 channel=wanted.channel.code, owner=owner or None)  # fmt: skip
        return row

    async def update(
        self, id: str, body: bytes, *, format: Format, release: Release, owner: str, version: int | None = None
    ) -> Subscribed:
        """As its client writes it now; `version` is the one it has read, if it says so."""
        row, now = self.get(id, owner), self._here.now()
        _check_version(row, version)
        wanted = self._read(body, format, release)
        if wanted.id != id:
            said = f"is {wanted.id[:64]!r}" if wanted.id else "is missing"
            text = f"Subscription.id {said}: it must be the id of the URL, {id}."
            raise SubscriptionRefused(text, id="id-does-not-match", expression="Subscription.id")
        wanted = with_secrets_of(wanted, row.subscription)
        _refuse_hidden(wanted)
        wanted = self._checked(wanted, owner, now, current=row.life.status)
        life = self._life_after(row, wanted, now)
        written = await self._store.rewrite(row.key, wanted, life, version=row.version, at=now)
        if written is None:
            _check_version(self.get(id, owner), row.version)  # gone, or changed meanwhile
            raise NotFound("no Subscription has this id here", id="unknown-subscription", expression="http.id")
        self._registry.put(written)
        return written

    async def delete(self, id: str, *, owner: str, version: int | None = None) -> bool:
        """False where there was none: to delete it twice is no error."""
        try:
            row = self.get(id, owner)
        except NotFound:
            return False
        _check_version(row, version)
        gone = await self._store.unsubscribe(row.key)
        self._registry.drop(row.key)
        log.info("unsubscribed", id=id)
        return gone

    def _read(self, body: bytes, format: Format, release: Release) -> Subscription:
        known = self._registry.topic
        return read_subscription(body, format=format, release=release, is_topic=lambda url: known(url) is not None)

    def _checked(self, wanted: Subscription, owner: str, now: datetime, current: Status | None = None) -> Subscription:
        self._offers.refuse_own(wanted)
        return checked(wanted, self._offers.of(owner), now=now, current=current)

    def _life_after(self, row: Subscribed, wanted: Subscription, now: datetime) -> Life:
        """What its client writes: `off` stops it, `requested` greets it anew, its status as read leaves it alone.

        Whoever points it elsewhere is greeted there first, whatever status was written (S-61).
        """
        if wanted.status is Status.OFF:
            return after(row.life, Happening.SWITCHED_OFF, now=now, model=wanted.model, policy=self._policy)
        before = row.subscription
        moved = (wanted.endpoint, wanted.channel) != (before.endpoint, before.channel)
        if wanted.status is Status.REQUESTED or (moved and row.life.sends):
            asked = after(row.life, Happening.ASKED, now=now, model=wanted.model, policy=self._policy)
            return _greeted(wanted, asked, now)
        return row.life

    # -- operations

    def status(self, rows: Sequence[Subscribed], *, format: Format, release: Release | None, self_url: str) -> bytes:
        """`$status`: of each as it stands now."""
        told = [
            (self._composing.about(row, written=(format, release or row.subscription.release)), self._here.new_id())
            for row in rows
        ]
        return statuses(told, format=format, self_url=self_url, errors=[_errors(row) for row in rows])

    async def events(self, id: str, asked: Events, *, owner: str, format: Format, release: Release | None) -> bytes:
        """`$events`: what it was told of, by number; as many as fit into one answer, the lowest first."""
        row = self._numbered(id, owner)
        written = (format, release or row.subscription.release)
        said = self._composing.about(row, written=written, content=asked.content)
        events = await self._heard(row, asked, said.content)
        first = next(batches(events, most=MOST_EVENTS, bytes_each=MOST_BYTES), ())
        ids = (self._here.new_id(), self._here.new_id())
        return notification(Kind.QUERY_EVENT, said, ids=ids, at=self._here.now(), events=first, errors=_errors(row))

    async def _heard(self, row: Subscribed, asked: Events, content: Content) -> list[Event]:
        """Little more than goes into one answer."""
        at = max(asked.range.since or 0, NO_EVENT + 1)
        until = row.counted if asked.range.until is None else min(asked.range.until, row.counted)
        events: list[Event] = []
        size = 0
        while at <= until and size <= MOST_BYTES and len(events) < MOST_EVENTS:
            heard = await self._store.heard(row.key, at, until, PART)
            if not heard:
                break
            part = await self._composing.events(row, heard, content)
            size += sum(len(one.body) for event in part for one in (event.focus, *event.more) if one is not None)
            events += part
            at = heard[-1].number + 1
        return events

    async def resend(self, id: str, asked: Resend, *, owner: str) -> tuple[int, int]:
        """`$resend`: events are sent again over the channel, from one on; returns the first number and the last."""
        row = self._numbered(id, owner)
        if not row.life.sends:
            raise SubscriptionRefused(
                f"The Subscription is {row.life.status.value}: nothing is sent. Write it as `requested` first.",
                id="not-active",
                code="business-rule",
                expression="Subscription.status",
            )
        first = await self._first_of(row, asked)
        row = self.get(id, owner)  # as it is now: it may have moved while the store was asked
        if first <= row.sent:
            # what is under way would set `sent` forward again when it ends: it is one of those that come once more
            under_way = row.notice if row.notice is not None and row.notice.kind is Kind.EVENT else None
            ended = None if under_way is None else under_way.position
            moved = await self._store.move(row.key, row.life, sent=first - 1, ended=ended)
            if moved is not None:
                self._registry.put(moved)
            if ended is not None:
                await self._withdraw(ended, "its events are sent once more, from an earlier one on")
        return first, row.counted

    async def _first_of(self, row: Subscribed, asked: Resend) -> int:
        first, last = max(asked.range.since or 0, NO_EVENT + 1), row.counted
        if asked.range.until is not None:
            last = min(last, asked.range.until)
        if asked.since is not None or asked.until is not None:
            between = await self._store.heard_between(row.key, asked.since, asked.until)
            first, last = (1, 0) if between is None else (max(first, between[0]), min(last, between[1]))
        if first > last:
            raise SubscriptionRefused(
                f"No event is in this range: {row.counted} were counted so far.",
                id="no-such-event",
                code="not-found",
                expression="eventsSinceNumber",
            )
        return first

    def bind(self, ids: Sequence[str], *, owner: str) -> tuple[str, datetime, tuple[str, ...]]:
        """`$get-ws-binding-token`: the token, until when it is good, and the subscriptions it is for."""
        rows = [self.get(id, owner) for id in dict.fromkeys(ids)]
        if not rows:
            raise SubscriptionRefused("Say which: name a Subscription by `id`.", id="missing-element", code="required")
        for row in rows:
            if row.subscription.channel.code != "websocket":
                text = (
                    f"Subscription {row.subscription.id} is told over {row.subscription.channel.code}, not websocket."
                )
                raise SubscriptionRefused(text, id="not-over-websocket", code="business-rule", expression="id")
        if self._token is None:
            raise SubscriptionRefused("No channel with sockets is on here.", id="no-sockets", code="not-supported")
        known = tuple(row.subscription.id for row in rows)
        token, until = self._token(known, self._here.now())
        return token, until, known

    def _numbered(self, id: str, owner: str) -> Subscribed:
        row = self.get(id, owner)
        if row.subscription.model is Model.CLASSIC:
            raise SubscriptionRefused(
                "R4's query-based Subscriptions have no event numbers: subscribe to a topic for that.",
                id="no-event-numbers",
                code="not-supported",
            )
        return row

    # -- consent to webhooks (C-30)

    def callback(self, subscription: Subscription) -> str:
        """Where the owner of an endpoint may consent later."""
        return f"{self._here.base_url}/consent/{consent_token(self._key, subscription)}"

    async def consented(self, token: str) -> None:
        """The owner of an endpoint that was asked whether it may be told says yes, later."""
        row = self._registry.find(consents_to(token))
        if row is None or not is_consent(self._key, row.subscription, token):
            raise NotFound("nobody waits for this consent", id="unknown-consent", expression="http.token")
        if row.life.status is not Status.REQUESTED:
            return
        asked = row.notice if row.notice is not None and row.notice.kind is Kind.HANDSHAKE else None
        await self._happens(row, Happening.GREETED, ended=None if asked is None else asked.position)
        if asked is not None:
            await self._withdraw(asked.position, "consent came by the callback")

    # -- what the operator does

    async def switch(self, id: str, *, on: bool, why: str = "") -> Subscribed:
        """Off until its client, or the operator, wants it again; on: greeted anew, as if its client had asked."""
        row = self.get(id, None)
        if not on:
            return await self._happens(row, Happening.SWITCHED_OFF, error=why or "switched off by the operator")
        return await self._happens(row, Happening.ASKED)

    async def _happens(
        self, row: Subscribed, happening: Happening, *, error: str = "", ended: int | None = None
    ) -> Subscribed:
        now = self._here.now()
        life = after(
            row.life, happening, now=now, model=row.subscription.model, policy=self._policy, error=error
        )  # fmt: skip
        if happening is Happening.ASKED:
            life = _greeted(row.subscription, life, now)
        moved = await self._store.move(row.key, life, ended=ended)
        if moved is None:
            raise NotFound("no Subscription has this id here", id="unknown-subscription", expression="http.id")
        self._registry.put(moved)
        return moved


def _greeted(subscription: Subscription, life: Life, now: datetime) -> Life:
    """Over sockets nobody can be greeted before it binds: such a subscription is active, and counts, at once (S-15)."""
    if subscription.channel.code != "websocket" or life.status is not Status.REQUESTED:
        return life
    return after(life, Happening.GREETED, now=now, model=subscription.model)


def _check_version(row: Subscribed, version: int | None) -> None:
    if version is not None and version != row.version:
        raise Conflict(
            f"the Subscription is at version {row.version} by now, not {version}; read it again",
            code="conflict",
            id="version-changed",
            expression="http.if-match",
        )


def _refuse_hidden(wanted: Subscription) -> None:
    """What stands for a secret is no secret; whoever copies a Subscription must say its own."""
    for place, header in enumerate(wanted.headers):
        if header.value == HIDDEN:
            where = "Subscription.parameter" if wanted.model is Model.NATIVE else "Subscription.channel.header"
            raise SubscriptionRefused(
                f"{where}[{place}] ({header.name}) has no value: {HIDDEN} stands for one that is not shown.",
                id="secret-needed",
                expression=f"{where}[{place}]",
            )


def _errors(row: Subscribed) -> tuple[Problem, ...]:
    """Why it is in trouble, or off."""
    if not row.life.error:
        return ()
    id = "delivery-failed" if row.life.status is Status.ERROR else "switched-off"
    return (Problem(code="processing", id=id, text=row.life.error),)

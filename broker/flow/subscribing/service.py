"""What subscribers ask: subscriptions made, changed, read and removed, and what the operations say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from broker.core.fhir.header import Format, Release
from broker.core.outcome import Busy, Conflict, NotFound, Problem, SubscriptionRefused
from broker.core.subscription.check import checked
from broker.core.subscription.consent import consents_to, is_consent
from broker.core.subscription.life import Happening, Life, Policy, after, due
from broker.core.subscription.notification import Event, Kind, batches, notification, statuses
from broker.core.subscription.operations import Events, Resend
from broker.core.subscription.read import read_subscription
from broker.core.subscription.subscription import HIDDEN, Content, Model, Status, Subscription, with_secrets_of
from broker.core.subscription.topic import Topic
from broker.flow.here import Here
from broker.flow.subscribing.composing import Composing
from broker.flow.subscribing.moves import Word
from broker.flow.subscribing.offers import Offers
from broker.flow.subscribing.registry import Registry
from broker.store.telling import NO_EVENT, Subscribed, Telling

log = structlog.get_logger("broker.subscriptions")

MOST_EVENTS = 1000  # of one answer to `$events`; who wants more asks again from the next number on
MOST_BYTES = 8 << 20  # of the resources in one
PART = 50  # events whose messages are in memory at once
RETRY_WHEN_FULL = 3600.0  # seconds: somebody has to leave first

# Seals ids of subscriptions, now; and says until when that is good.
Token = Callable[[Sequence[str], datetime], tuple[str, datetime]]


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
        happens: Callable[[int, Word], None],
        token: Token,
        sockets: Callable[[], str],
        room: Callable[[], None] = lambda: None,
    ) -> None:
        """`room` refuses what the store has no place for now, as it does with messages.

        `happens` writes what happens to a subscription; `sockets` is the URL of the channel that has some, or "".
        """
        self._here = here
        self._store = store
        self._registry = registry
        self._composing = composing
        self._offers = offers
        self._policy = policy
        self._most = most
        self._key = key
        self._happens = happens
        self._token = token
        self._sockets = sockets
        self._room = room

    # -- what is there

    @property
    def sockets(self) -> str:
        """The URL of the channel that binds sockets; "" where none does."""
        return self._sockets()

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
        self._room()
        known = self._registry.topic
        return read_subscription(body, format=format, release=release, is_topic=lambda url: known(url) is not None)

    def _checked(self, wanted: Subscription, owner: str, now: datetime, current: Status | None = None) -> Subscription:
        self._offers.refuse_own(wanted)
        return checked(wanted, self._offers.of(owner, wanted), now=now, current=current)

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
            self._happens(row.key, Word(None, sent=first - 1))
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
        if not self.sockets:
            text = "No URL of sockets is known here: the operator says one by `channels.websocket.url`."
            raise SubscriptionRefused(text, id="no-sockets", code="not-supported")
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

    def consented(self, token: str) -> None:
        """The owner of an endpoint that was asked whether it may be told says yes, later."""
        row = self._registry.find(consents_to(token))
        if row is None or not is_consent(self._key, row.subscription, token):
            raise NotFound("nobody waits for this consent", id="unknown-consent", expression="http.token")
        if row.life.status is Status.REQUESTED:
            self._happens(row.key, Word(Happening.GREETED))

    # -- what the operator does

    async def switch(self, id: str, *, on: bool, why: str = "") -> Subscribed:
        """Off until its client, or the operator, wants it again; on: greeted anew, as if its client had asked.

        It is a new version, so that a client which does not know of it cannot undo it unawares.
        """
        row, now = self.get(id, None), self._here.now()
        happening = Happening.ASKED if on else Happening.SWITCHED_OFF
        life = after(
            row.life, happening, now=now, model=row.subscription.model, policy=self._policy,
            error=why or "switched off by the operator",
        )  # fmt: skip
        life = _greeted(row.subscription, life, now)
        wanted = msgspec.structs.replace(row.subscription, status=Status.REQUESTED if on else Status.OFF)
        written = await self._store.rewrite(row.key, wanted, life, version=row.version, at=now)
        if written is None:
            _check_version(self.get(id, None), row.version)
            raise NotFound("no Subscription has this id here", id="unknown-subscription", expression="http.id")
        self._registry.put(written)
        log.info("switched", id=id, on=on, why=why)
        return written


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

"""Composing: from what a subscription has heard to the bytes that are sent, and how they are sent.

What is sent depends on the channel: a Bundle, the same inside a message (S-47), a mail (S-45), the bare resource
(S-41), a CloudEvent (C-61). A notification of another server goes as it came, alone (S-24).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import msgspec
import orjson

from broker.channel import Manner
from broker.core.attributes import to_attributes
from broker.core.cloudevent import write_event
from broker.core.envelope import Envelope
from broker.core.fhir.header import Event as MessageEvent
from broker.core.fhir.header import Format, Header, Release
from broker.core.fhir.media import media_text, media_type
from broker.core.fhir.read import read
from broker.core.message import Message
from broker.core.outcome import Problem, Who
from broker.core.subscription import cloud, mail
from broker.core.subscription.life import Life
from broker.core.subscription.notification import (
    DEFAULT_COUNT,
    About,
    Carried,
    Event,
    Kind,
    batches,
    notification,
)
from broker.core.subscription.schedule import content_of, is_cloudevents
from broker.core.subscription.subscription import Content, Model, Status, Subscription
from broker.core.subscription.topic import Topic
from broker.core.subscription.wrap import EVENT, wrap
from broker.flow.here import Here
from broker.flow.subscribing.entity import Entity, mail_entity
from broker.flow.subscribing.material import Material, Source, tells_more
from broker.store.telling import NO_EVENT, Heard, Subscribed

BYTES = 1 << 20  # of resources in one notification; a larger one goes alone
_STATUS = UUID("3f0e9d9b-6a0e-4c55-9c1d-2f5c1c9a7f10")  # namespace of the ids of status entries
KINDS = "urn:x-fhir-broker:notification"  # system of what a notification of ours is called in traces


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """A notification in bytes."""

    body: bytes
    media_type: str
    header: Header
    envelope: Envelope
    first: int = NO_EVENT
    last: int = NO_EVENT


class Composing:
    def __init__(
        self,
        *,
        here: Here,
        material: Material,
        topic_of: Callable[[Subscription], Topic | None],
        event: MessageEvent = EVENT,
        cap: Callable[[str], Content] = lambda owner: Content.FULL,
        callback: Callable[[Subscription], str] = lambda subscription: "",
    ) -> None:
        self._here = here
        self._material = material
        self._topic_of = topic_of
        self._event = event
        self._cap = cap  # the most that a party is told now
        self._callback = callback  # where consent may be given later (C-30); "" where that is not offered
        self._origin = urlsplit(here.base_url).hostname or ""

    # -- what all that is sent says of its subscription

    def url(self, subscription: Subscription) -> str:
        """The full URL of a Subscription, by the base of its release."""
        base = self._here.base_url.rstrip("/")
        pinned = "" if subscription.release is self._here.release else f"/{subscription.release.name}"
        return f"{base}{pinned}/Subscription/{subscription.id}"

    def about(
        self, row: Subscribed, *, since_start: int | None = None, written: tuple[Format, Release] | None = None,
        content: Content | None = None,
    ) -> About:  # fmt: skip
        """`written`: in which format and release, where it is not as subscribed; `content`: where it is less."""
        subscription = row.subscription
        format, release = written or written_in(subscription)
        agreed = content_of(subscription, self._cap(row.owner))
        return About(
            url=self.url(subscription),
            topic=subscription.topic,
            status=row.life.status,
            since_start=row.counted if since_start is None else since_start,
            content=content if content is not None and agreed.exceeds(content) else agreed,
            release=release,
            format=format,
        )

    async def events(self, row: Subscribed, heard: Sequence[Heard], content: Content | None = None) -> list[Event]:
        """What a subscription heard, as notifications tell of it; `content`: where it is to be less than agreed."""
        agreed = content_of(row.subscription, self._cap(row.owner))
        level = content if content is not None and agreed.exceeds(content) else agreed
        query = self._query(row, level)
        found = []
        for one in heard:
            focus, more = (await self._material.of(one.position)).told(one)
            if level is not Content.FULL:
                focus, more = _named(focus), tuple([_named(each) for each in more])
            found.append(Event(number=one.number, at=one.at, focus=focus, more=more, query=query))
        return found

    def _query(self, row: Subscribed, content: Content) -> str:
        """Who is told nothing may ask the data source what changed since it last heard of us (S-57a)."""
        topic = self._topic_of(row.subscription) if content is Content.EMPTY else None
        if topic is None or not topic.offers_content_free():
            return ""
        return cloud.since(topic.query, row.life.last_sent or row.changed)

    def bundle(self, kind: Kind, about: About, events: Sequence[Event], *, life: Life, id: str = "") -> bytes:
        """A notification Bundle; fresh ids each time, so that what is tried again must be kept (S-33)."""
        here = self._here
        id = id or here.new_id()
        status_id = str(uuid5(_STATUS, id))  # as fresh as the other, and many times cheaper
        return notification(kind, about, ids=(id, status_id), at=here.now(), events=events, errors=_errors(life))

    # -- what is sent

    def most(self, subscription: Subscription) -> int:
        """How many events one notification tells of."""
        if subscription.model is Model.CLASSIC or is_cloudevents(subscription):
            return 1
        return subscription.max_count or DEFAULT_COUNT

    async def compose(self, row: Subscribed, kind: Kind, heard: Sequence[Heard] = ()) -> Composed:
        """One notification of as many of the events as fit into it (S-34)."""
        relayed = next((place for place, one in enumerate(heard) if one.relayed), None)
        if relayed == 0:
            composed = self._relayed(row, heard[0], await self._material.of(heard[0].position))
            if composed is not None:
                return composed
            heard = heard[:1]  # it says more than this subscriber is told: we say less, in our own words
        elif relayed is not None:
            heard = heard[:relayed]
        events = await self.events(row, heard)
        events = list(next(batches(events, most=self.most(row.subscription), bytes_each=BYTES), ()))
        if is_cloudevents(row.subscription):
            source = None if not heard else await self._material.of(heard[0].position)
            return self._cloud_event(row, kind, events, source)
        if row.subscription.channel.code == "email":
            return self._mail(row, kind, events)
        if row.subscription.model is Model.CLASSIC:
            return self._bare(row, kind, events)
        about = self.about(row, since_start=events[-1].number if events else None)
        id = self._here.new_id()
        bundle = self.bundle(kind, about, events, life=row.life, id=id)
        return self._ready(row, kind, about, events, bundle, id=id)

    def _ready(
        self, row: Subscribed, kind: Kind, about: About, events: Sequence[Event], bundle: bytes, *, id: str,
        media: str | None = None,
    ) -> Composed:  # fmt: skip
        """A Bundle as the channel takes it: in a message, or as it is."""
        if row.subscription.channel.code != "message":
            media = media or row.subscription.media_type or media_text(about.format)
            return self._composed(row, kind, events, Entity(bundle, media), id=id, about=about)
        here = self._here
        body = wrap(
            bundle,
            notification_id=id,
            format=about.format,
            release=about.release,
            endpoint=row.subscription.endpoint,
            source=here.endpoint,
            source_name="fhir-broker",
            ids=(here.new_id(), here.new_id()),
            at=here.now(),
            event=self._event,
        )
        media = media_text(about.format, about.release)
        header = read(body, media_type(media))
        return self._composed(row, kind, events, Entity(body, media), id=header.bundle_id or id, header=header)

    def _bare(self, row: Subscribed, kind: Kind, events: Sequence[Event]) -> Composed:
        """R4 classic (S-41): the resource to its own URL, or nothing at all."""
        about = self.about(row, since_start=events[-1].number if events else None)
        focus = events[0].focus if events else None
        media = row.subscription.media_type
        if focus is not None and media and focus.body and focus.type and focus.id and focus.format is about.format:
            entity, target = Entity(focus.body, media), f"{focus.type}/{focus.id}"
        else:  # nothing was asked for, or there is nothing that could be sent so
            entity, target = Entity(b"", media or media_text(about.format)), ""
        id = self._here.new_id()
        return self._composed(row, kind, events, entity, id=id, about=about, focus=(target,) if target else ())

    def _mail(
        self, row: Subscribed, kind: Kind, events: Sequence[Event], relayed: tuple[bytes, str] | None = None
    ) -> Composed:
        """In words, with the Bundle for machines where it was asked for (S-45)."""
        form = mail.form_of(row.subscription.media_type) or mail.Form(html=False)
        attached, id = form.attached, self._here.new_id()
        written = None if attached is None else (attached.format, attached.release or row.subscription.release)
        about = self.about(row, since_start=events[-1].number if events else None, written=written)
        attachment = relayed
        if attached is not None and attachment is None:
            bundle = self.bundle(kind, about, events, life=row.life, id=id)
            attachment = (bundle, media_text(attached.format, attached.release))
        text = mail.body(kind, about, events, html=form.html)
        return self._composed(row, kind, events, mail_entity(text, form, attachment, id), id=id, about=about)

    def _cloud_event(
        self,
        row: Subscribed,
        kind: Kind,
        events: Sequence[Event],
        source: Source | None,
        relayed: tuple[bytes, str] | None = None,
    ) -> Composed:
        """One event, structured: so it has a body also where it has no data (C-25). It is a new one (C-53)."""
        here, about = self._here, self.about(row)
        message = None if source is None else source.message
        envelope = cloud.envelope_of(
            events, about, prefix=here.event_prefix, base_url=here.base_url, at=here.now(),
            causation=(message.envelope.id or "") if message is not None else "",
        )  # fmt: skip
        if kind is Kind.HANDSHAKE and row.subscription.channel.code == "rest-hook":
            entity = Entity(b"", row.subscription.media_type)  # its own way: an OPTIONS without a body (C-28)
        elif kind in (Kind.HANDSHAKE, Kind.HEARTBEAT):
            envelope = msgspec.structs.replace(envelope, type=f"{here.event_prefix}.{kind.value}")
            entity = Entity(orjson.dumps(to_attributes(envelope)), row.subscription.media_type)
        else:
            data = relayed or self._data(events[0], about, source)
            body = orjson.dumps(to_attributes(envelope)) if data is None else write_event(envelope, *data)
            entity = Entity(body, row.subscription.media_type)
        return self._composed(row, kind, events, entity, id=here.new_id(), about=about)

    def _data(self, event: Event, about: About, source: Source | None) -> tuple[bytes, str] | None:
        focus = event.focus
        message = None if source is None else source.message
        if about.content is Content.FULL and focus is not None and focus.type == "Bundle" and message is not None:
            return (focus.body, message.media_type) if focus.body else None  # the message itself, whatever it is
        return cloud.data_of(event, about)

    def _relayed(self, row: Subscribed, heard: Heard, source: Source) -> Composed | None:
        """The notification of another server as it came (S-24); None where it tells more than is allowed here."""
        found, message = source.relayed(), source.message
        if found is None or message is None:
            return None
        header, subscription = message.header, row.subscription
        level = content_of(subscription, self._cap(row.owner))
        names, shows = level is not Content.EMPTY, level is Content.FULL
        if not shows and tells_more(found, header, names=names, shows=shows):
            return None
        about = self.about(row, since_start=heard.number, written=(header.format, header.release))
        event = Event(number=heard.number, at=heard.at, focus=_relayed_focus(found.focus))
        media = media_text(header.format, header.release)
        if is_cloudevents(subscription):
            return self._cloud_event(row, Kind.EVENT, (event,), source, (found.body, media))
        if subscription.channel.code == "email":
            return self._mail(row, Kind.EVENT, (event,), (found.body, media))
        return self._ready(row, Kind.EVENT, about, (event,), found.body, id=self._here.new_id(), media=media)

    def _composed(
        self,
        row: Subscribed,
        kind: Kind,
        events: Sequence[Event],
        entity: Entity,
        *,
        id: str,
        about: About | None = None,
        header: Header | None = None,
        focus: tuple[str, ...] = (),
    ) -> Composed:
        here, now = self._here, self._here.now()
        first, last = (events[0].number, events[-1].number) if events else (NO_EVENT, NO_EVENT)
        if header is None:
            format, release = written_in(row.subscription) if about is None else (about.format, about.release)
            header = Header(
                release=release, format=format, event=MessageEvent(system=KINDS, code=kind.value), bundle_id=id,
                source=here.endpoint, focus=focus,
            )  # fmt: skip
        envelope = Envelope(
            id=id,
            source=here.endpoint,
            type=f"{here.event_prefix}.{kind.value}",
            time=now,
            more=(("sequence", str(last)),) if last else (),
        )
        return Composed(
            body=entity.body, media_type=entity.media_type, header=header, envelope=envelope, first=first, last=last
        )

    # -- how it is sent

    def manner(self, subscription: Subscription, message: Message, url: str) -> Manner | None:
        """Looked up at each attempt, so that secrets stand in one place; None for what travels as a message."""
        header = message.header
        if header.event.system != KINDS:
            return None
        kind = Kind(header.event.code)
        if subscription.channel.code == "email":
            return Manner(subject=mail.subject(kind, About(url=url), _last(message)))
        headers = tuple([(one.name, one.value) for one in subscription.headers])
        if subscription.channel.code != "rest-hook":
            return Manner(headers=headers)
        if is_cloudevents(subscription):
            if kind is Kind.HANDSHAKE:
                callback = self._callback(subscription)
                return Manner(method="OPTIONS", headers=headers, origin=self._origin, callback=callback)
            return Manner(headers=headers, origin=self._origin)
        if header.focus:
            return Manner(method="PUT", path=header.focus[0], headers=headers)
        return Manner(headers=headers)

    def may_consent_later(self, subscription: Subscription) -> bool:
        """Whether a handshake without an answer is no failure: its owner may come back (C-30)."""
        return is_cloudevents(subscription) and bool(self._callback(subscription))


def written_in(subscription: Subscription) -> tuple[Format, Release]:
    """The format and release of its notifications: as its media type says, else as it was created (S-3)."""
    text = subscription.media_type
    if not text or subscription.channel.code == "email" or is_cloudevents(subscription):
        return Format.JSON, subscription.release
    media = media_type(text)
    return media.format, media.release or subscription.release


def _named(one: Carried) -> Carried:
    return Carried(
        reference=one.reference, type=one.type, id=one.id, interaction=one.interaction, format=one.format,
        release=one.release,
    )  # fmt: skip


def _relayed_focus(focus: Sequence[str]) -> Carried | None:
    if not focus:
        return None
    parts = focus[0].split("/")
    type, id = (parts[-2], parts[-1]) if len(parts) > 1 and parts[-2][:1].isupper() else ("", "")
    return Carried(reference=focus[0], type=type, id=id)


def _errors(life: Life) -> tuple[Problem, ...]:
    if life.status is not Status.ERROR or not life.error:
        return ()
    return (Problem(code="processing", id="not-delivered", who=Who.RECEIVER, text=life.error),)


def _last(message: Message) -> tuple[Event, ...]:
    number = dict(message.envelope.more).get("sequence")
    return (Event(number=int(number)),) if number else ()

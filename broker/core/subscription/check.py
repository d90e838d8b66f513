"""Decides whether a Subscription is served as it stands; what is not is refused, element by element (S-8, S-9)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec

from broker.core.fhir.header import Release
from broker.core.fhir.media import MediaType, media_type
from broker.core.outcome import Refusal
from broker.core.subscription import mail, query
from broker.core.subscription.elements import Complaints
from broker.core.subscription.subscription import Content, Filter, Model, Status, Subscription
from broker.core.subscription.topic import Topic

CLOUDEVENTS = "application/cloudevents+json"
_ADDRESS = re.compile(r"[^\s@<>,;:\"]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?")


class ChannelOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel type takes here."""

    schemes: tuple[str, ...]  # of the endpoint; none = there must be no endpoint (websocket, S-44)
    headers: bool = True  # whether headers can be conveyed
    mail: bool = False  # whether the media type describes a mail body (S-45)
    cloudevents: bool = False  # whether `application/cloudevents+json` is served
    classic: bool = False  # whether R4's classic model is served


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What this broker serves, and to whom."""

    channels: Mapping[tuple[str, str], ChannelOffer]  # by system and code
    topic: Callable[[str], Topic | None]  # by canonical
    may_point_at: Callable[[str], bool]  # the allow-list of endpoints (S-61)
    cap: Content = Content.ID_ONLY  # the most this party is told (S-63)
    reads_mailbox: bool = False  # whether it may read the messages themselves (S-57a)
    releases: tuple[Release, ...] = (Release.R4, Release.R4B, Release.R5)
    default_content: Content = Content.ID_ONLY
    shortest_heartbeat: timedelta = timedelta(seconds=10)
    longest_timeout: timedelta = timedelta(minutes=5)
    largest_count: int = 1000
    most_filters: int = 20


def checked(subscription: Subscription, offer: Offer, *, now: datetime, current: Status | None = None) -> Subscription:
    """The Subscription with what its client left open filled in; raises SubscriptionRefused with all that is wrong.

    `current` is the status of the one that is updated: a client may write it back as it read it.
    """
    complain = Complaints()
    at = _Places(subscription)
    if subscription.status not in (Status.REQUESTED, Status.OFF, current):
        complain(at.status, "must be `requested` (or `off`): the server alone says what follows.")
    if subscription.end is not None and subscription.end <= now:
        complain(at.end, "is in the past.")
    channel = offer.channels.get((subscription.channel.system, subscription.channel.code))
    if channel is None:
        served = ", ".join(sorted(code for _, code in offer.channels)) or "none"
        complain(at.channel, f"is not served here; these are: {served}.", id="unknown-channel", code="not-supported")
    else:
        _check_endpoint(subscription, channel, offer, at, complain)
        _check_media(subscription, channel, offer, at, complain)
    _check_limits(subscription, offer, at, complain)
    if subscription.model is Model.CLASSIC:
        _check_classic(subscription, channel, offer, at, complain)
        complain.raise_if_any()
        return subscription
    subscription = msgspec.structs.replace(subscription, content=subscription.content or offer.default_content)
    _check_topic(subscription, offer, at, complain)
    complain.raise_if_any()
    return subscription


class _Places:
    """Where things stand in the resource, as its model spells them."""

    def __init__(self, subscription: Subscription) -> None:
        native = subscription.model is Model.NATIVE
        channel = "Subscription" if native else "Subscription.channel"
        self.status, self.end = "Subscription.status", "Subscription.end"
        self.channel = "Subscription.channelType" if native else "Subscription.channel.type"
        self.topic = "Subscription.topic" if native else "Subscription.criteria"
        self.filters = "Subscription.filterBy" if native else "Subscription.criteria.extension"
        self.endpoint = f"{channel}.endpoint"
        self.headers = "Subscription.parameter" if native else "Subscription.channel.header"
        self.media = "Subscription.contentType" if native else "Subscription.channel.payload"
        self.content = "Subscription.content" if native else "Subscription.channel.payload.extension"
        self.heartbeat = "Subscription.heartbeatPeriod" if native else "Subscription.channel.extension"
        self.timeout = "Subscription.timeout" if native else "Subscription.channel.extension"
        self.max_count = "Subscription.maxCount" if native else "Subscription.channel.extension"


def _check_endpoint(
    subscription: Subscription, channel: ChannelOffer, offer: Offer, at: _Places, complain: Complaints
) -> None:
    endpoint, code = subscription.endpoint, subscription.channel.code
    if subscription.headers and not channel.headers:
        complain(at.headers, f"cannot be conveyed over {code}: leave it out.", code="not-supported")
    if not channel.schemes:
        if endpoint:
            complain(at.endpoint, f"must not be given for {code}: the subscriber connects to us.")
        return
    if not endpoint:
        complain.missing(at.endpoint, f"{code} needs to know where to")
        return
    scheme, fits = endpoint.partition(":")[0].lower(), len(complain.problems)
    if scheme not in channel.schemes:
        plain = scheme == "http" and "https" in channel.schemes
        why = " Plain http is refused." if plain else ""
        names = " or ".join(f"{one}:" for one in channel.schemes)
        complain(at.endpoint, f"must begin with {names} for {code}.{why}", id="endpoint-does-not-fit")
    elif scheme == "mailto":
        if not _ADDRESS.fullmatch(endpoint.partition(":")[2]):
            complain(at.endpoint, "must be mailto: and one address, nothing else.", id="endpoint-does-not-fit")
    elif "@" in urlsplit(endpoint).netloc:
        complain(at.endpoint, "must not carry a user or password: use a header.", id="endpoint-does-not-fit")
    if len(complain.problems) == fits and not offer.may_point_at(endpoint):
        complain(
            at.endpoint,
            "is not on the list of endpoints that may be notified: ask the operator.",
            id="endpoint-not-allowed",
            code="forbidden",
        )


def _check_media(
    subscription: Subscription, channel: ChannelOffer, offer: Offer, at: _Places, complain: Complaints
) -> None:
    text = subscription.media_type
    if not text:
        return
    if not channel.mail and text.partition(";")[0].strip().lower() == CLOUDEVENTS:
        if not channel.cloudevents:
            complain(at.media, f"is not served over {subscription.channel.code}.", code="not-supported")
        return
    named: MediaType | None
    try:
        if channel.mail:
            form = mail.form_of(text)
            if form is None:
                complain(at.media, "must be text/plain or text/html, with `;attach=…` for an attachment.")
                return
            named = form.attached
        else:
            named = media_type(text)
    except Refusal as refusal:
        complain(at.media, f"is not served: {refusal}", id="media-type-not-served", code="not-supported")
        return
    if named is None:
        return
    release = named.release or subscription.release
    if release not in offer.releases:  # S-3
        served = ", ".join(offer.releases)
        id = "fhir-version-not-served"
        complain(at.media, f"asks for fhirVersion {release}; served are {served}.", id=id, code="not-supported")


def _check_limits(subscription: Subscription, offer: Offer, at: _Places, complain: Complaints) -> None:
    if subscription.heartbeat is not None and subscription.heartbeat < offer.shortest_heartbeat:
        complain(at.heartbeat, f"asks for heartbeats closer than {_seconds(offer.shortest_heartbeat)} seconds.")
    if subscription.timeout is not None and subscription.timeout > offer.longest_timeout:
        complain(at.timeout, f"is longer than {_seconds(offer.longest_timeout)} seconds.")
    if subscription.max_count is not None and subscription.max_count > offer.largest_count:
        complain(at.max_count, f"is more than {offer.largest_count}.")
    if len(subscription.filters) > offer.most_filters:
        complain(at.filters, f"has more than {offer.most_filters} filters.", code="too-costly")


def _check_topic(subscription: Subscription, offer: Offer, at: _Places, complain: Complaints) -> None:
    topic = offer.topic(subscription.topic)
    if topic is None:
        complain(
            at.topic,
            f"{subscription.topic[:200]!r} is no topic of this server: see SubscriptionTopic or /metadata.",
            id="unknown-topic",
            code="not-found",
        )
        return
    for place, one in enumerate(subscription.filters):
        why = filter_problem(topic, one)
        if why:
            complain(f"{at.filters}[{place}]", why, id="filter-not-allowed", code="not-supported")
    content = subscription.content or offer.default_content
    if content.exceeds(offer.cap):
        complain(
            at.content,
            f"asks for {content.value}; this party is told {offer.cap.value} at most.",
            id="content-above-cap",
            code="forbidden",
        )
    if content is Content.EMPTY and not (topic.offers_content_free() or offer.reads_mailbox):
        complain(
            at.content,
            "asks for `empty`, but nothing could be asked for what changed: use `id-only`.",
            id="content-not-offered",
            code="not-supported",
        )


def filter_problem(topic: Topic, one: Filter) -> str:
    """Why the topic does not allow a filter, or we cannot evaluate it; "" where it is fine."""
    types = topic.focus_types
    if one.resource_type and types and one.resource_type not in types:
        return f"is about {one.resource_type}, which this topic never tells of."
    allowed = topic.filter_by(one.parameter, one.resource_type)
    if allowed is None:
        names = ", ".join(filter_.parameter for filter_ in topic.filters) or "none"
        return f"filters by {one.parameter}, which the topic does not allow (it allows: {names})."
    try:
        condition = query.condition_of(one, allowed, types)
    except query.NotEvaluable as error:
        return str(error)
    if allowed.modifiers and condition.modifier and condition.modifier not in allowed.modifiers:
        return f"has the modifier {condition.modifier}; the topic allows: {', '.join(allowed.modifiers)}."
    if allowed.comparators and not condition.comparators <= {*allowed.comparators, "eq"}:
        return f"has a comparator that is not among those of the topic: {', '.join(allowed.comparators)}."
    return ""


def _check_classic(
    subscription: Subscription, channel: ChannelOffer | None, offer: Offer, at: _Places, complain: Complaints
) -> None:
    if channel is not None and not channel.classic:
        complain(at.channel, "is not served for the query-based model of R4: subscribe to a topic.", id="no-classic")
    if offer.cap is not Content.FULL and subscription.media_type and subscription.channel.code != "websocket":
        complain(at.media, f"asks for the resource; this party is told {offer.cap.value} at most.")
    try:
        query.parse(subscription.criteria)
    except query.NotEvaluable as error:
        complain(at.topic, str(error), id="criteria-not-evaluable", code="not-supported")


def _seconds(time: timedelta) -> int:
    return int(time.total_seconds())

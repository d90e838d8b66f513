"""What is sent to a subscriber: Bundles of R4, R4B and R5, whatever the occasion (S-30 to S-35, spec section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import Resource, instant, write
from broker.core.outcome import Problem
from broker.core.subscription.content import Entry, fragment
from broker.core.subscription.subscription import Content, Status
from broker.core.subscription.topic import Interaction

DEFAULT_COUNT = 20  # events of one notification where the subscriber names no number (S-34)


class Kind(StrEnum):
    HANDSHAKE = "handshake"
    HEARTBEAT = "heartbeat"
    EVENT = "event-notification"
    QUERY_STATUS = "query-status"
    QUERY_EVENT = "query-event"


MARK = Kind.EVENT.encode()  # stands in each notification of an event, in JSON and XML, whatever the release


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that a notification tells of, with its bytes where they are known."""

    reference: str
    type: str
    id: str = ""
    interaction: Interaction | None = None  # None: not changed by the event, sent along with it
    body: bytes = b""
    format: Format = Format.JSON
    release: Release = Release.R4


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something a topic tells of, with the number it has for one subscription."""

    number: int
    at: datetime | None = None
    focus: Carried | None = None
    more: tuple[Carried, ...] = ()
    query: str = ""  # what to ask the data source for (S-57a)


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription, as far as its notifications say something of it."""

    url: str  # its full URL, by the base of its release
    topic: str = ""
    status: Status = Status.ACTIVE
    since_start: int = 0  # the highest number given (S-20)
    content: Content = Content.ID_ONLY
    release: Release = Release.R4
    format: Format = Format.JSON


def carried(entry: Entry, *, interaction: Interaction | None = None, with_body: bool) -> Carried:
    """An entry of a message as a notification tells of it."""
    return Carried(
        reference=entry.reference,
        type=entry.type,
        id=entry.id,
        interaction=interaction,
        body=entry.raw if with_body else b"",
        format=entry.format,
        release=entry.release,
    )


def batches(events: Sequence[Event], *, most: int | None, bytes_each: int) -> Iterator[Sequence[Event]]:
    """The events in as many notifications as they need (S-34): never more than `most` in one, nor many large ones."""
    most = most or DEFAULT_COUNT
    start, size = 0, 0
    for place, event in enumerate(events):
        more = sum(len(one.body) for one in (event.focus, *event.more) if one is not None)
        if place > start and (place - start >= most or size + more > bytes_each):
            yield events[start:place]
            start, size = place, 0
        size += more
    if events:
        yield events[start:]


def notification(
    kind: Kind,
    about: About,
    *,
    ids: tuple[str, str],
    at: datetime,
    events: Sequence[Event] = (),
    errors: Sequence[Problem] = (),
) -> bytes:
    """The Bundle in bytes; `ids` are fresh UUIDs for Bundle and status, so that a retry repeats the bytes (S-33)."""
    bundle_id, status_id = ids
    first = status(kind, about, id=status_id, events=events, errors=errors)
    entry: Resource = {"fullUrl": f"urn:uuid:{status_id}", "resource": first}
    if not about.release.identifies_by_bundle_identifier:  # S-31
        entry["request"] = {"method": "GET", "url": f"{about.url}/$status"}
        entry["response"] = {"status": "200"}
    bundle: Resource = {
        "resourceType": "Bundle",
        "id": bundle_id,
        "type": "subscription-notification" if about.release.identifies_by_bundle_identifier else "history",
        "timestamp": instant(at),
        "entry": [entry, *_further(about, events)],
    }
    return write(bundle, about.format)


def statuses(
    about: Sequence[tuple[About, str]], *, format: Format, self_url: str, errors: Sequence[Sequence[Problem]] = ()
) -> bytes:
    """The answer to `$status`: a searchset of what is asked for, each with a fresh UUID (spec section 6)."""
    found: list[Resource] = []
    for place, (one, id) in enumerate(about):
        problems = errors[place] if place < len(errors) else ()
        resource = status(Kind.QUERY_STATUS, one, id=id, errors=problems)
        found.append({"fullUrl": f"urn:uuid:{id}", "resource": resource, "search": {"mode": "match"}})
    bundle: Resource = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(found),
        "link": [{"relation": "self", "url": self_url}],
    }
    if found:
        bundle["entry"] = found
    return write(bundle, format)


# --- the first entry, as each release spells it (spec section 4) ---


def status(
    kind: Kind, about: About, *, id: str, events: Sequence[Event] = (), errors: Sequence[Problem] = ()
) -> Resource:
    """The status of a subscription: Parameters in R4, SubscriptionStatus since."""
    if about.release in (Release.DSTU2, Release.STU3, Release.R4):
        return _parameters(kind, about, id, events, errors)
    return _status(kind, about, id, events, errors)


def _tells_topic(about: About) -> bool:
    return bool(about.topic) and about.content is not Content.EMPTY  # S-23: the topic itself is information


def _parameters(kind: Kind, about: About, id: str, events: Sequence[Event], errors: Sequence[Problem]) -> Resource:
    parameter: list[Resource] = [{"name": "subscription", "valueReference": {"reference": about.url}}]
    if _tells_topic(about):
        parameter.append({"name": "topic", "valueCanonical": about.topic})
    parameter += [
        {"name": "status", "valueCode": about.status.value},
        {"name": "type", "valueCode": kind.value},
        {"name": "events-since-subscription-start", "valueString": str(about.since_start)},
    ]
    parameter += [{"name": "notification-event", "part": _parts(event, about)} for event in events]
    parameter += [{"name": "error", "valueCodeableConcept": _concept(problem)} for problem in errors]
    profile = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription-status-r4"
    return {"resourceType": "Parameters", "id": id, "meta": {"profile": [profile]}, "parameter": parameter}


def _parts(event: Event, about: About) -> list[Resource]:
    parts: list[Resource] = [{"name": "event-number", "valueString": str(event.number)}]
    if event.at is not None:
        parts.append({"name": "timestamp", "valueInstant": instant(event.at)})
    if about.content is not Content.EMPTY:
        if event.focus is not None:
            parts.append({"name": "focus", "valueReference": _reference(event.focus)})
        parts += [{"name": "additional-context", "valueReference": _reference(one)} for one in event.more]
    if event.query:
        parts.append({"name": "related-query", "part": [{"name": "query", "valueString": event.query}]})
    return parts


def _status(kind: Kind, about: About, id: str, events: Sequence[Event], errors: Sequence[Problem]) -> Resource:
    resource: Resource = {
        "resourceType": "SubscriptionStatus",
        "id": id,
        "status": about.status.value,
        "type": kind.value,
        "eventsSinceSubscriptionStart": str(about.since_start),  # a string in R4B; integer64, so a string, in R5
    }
    if events:
        resource["notificationEvent"] = [_event(event, about) for event in events]
    resource["subscription"] = {"reference": about.url}
    if _tells_topic(about):
        resource["topic"] = about.topic
    if errors:
        resource["error"] = [_concept(problem) for problem in errors]
    return resource


_RELATED = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-related-query"


def _event(event: Event, about: About) -> Resource:
    written: Resource = {}
    if event.query:
        written["extension"] = [{"extension": [{"url": "query", "valueString": event.query}], "url": _RELATED}]
    written["eventNumber"] = str(event.number)
    if event.at is not None:
        written["timestamp"] = instant(event.at)
    if about.content is not Content.EMPTY:
        if event.focus is not None:
            written["focus"] = _reference(event.focus)
        if event.more:
            written["additionalContext"] = [_reference(one) for one in event.more]
    return written


def _reference(one: Carried) -> Resource:
    """With the type, since a `urn:uuid:` does not show it; the id stands in the request of its entry."""
    return {"reference": one.reference, "type": one.type} if one.type else {"reference": one.reference}


def _concept(problem: Problem) -> Resource:
    coding = {"system": "urn:x-fhir-broker:error", "code": problem.id}
    return {"coding": [coding], "text": problem.text} if problem.text else {"coding": [coding]}


# --- the further entries (spec section 5) ---

_METHODS = {Interaction.CREATE: "POST", Interaction.UPDATE: "PUT", Interaction.DELETE: "DELETE", None: "GET"}
_RESULTS = {Interaction.CREATE: "201", Interaction.UPDATE: "200", Interaction.DELETE: "204", None: "200"}


def _further(about: About, events: Sequence[Event]) -> Iterator[Resource]:
    """What the events tell of, each resource once: `empty` has none, `id-only` names, `full-resource` shows them."""
    if about.content is Content.EMPTY:
        return
    named: set[str] = set()
    for event in events:
        for one in (event.focus, *event.more):
            if one is None or not one.reference or (one.reference in named and not one.interaction):
                continue
            named.add(one.reference)
            yield _entry(one, about)


def _entry(one: Carried, about: About) -> Resource:
    entry: Resource = {}
    if one.reference.startswith(("http://", "https://", "urn:")):  # of the others nobody knows where they are
        entry["fullUrl"] = one.reference
    if about.content is Content.FULL and one.interaction is not Interaction.DELETE:
        resource = fragment(one.body, one.format) if one.format is about.format and _same(one, about) else None
        if resource is not None:
            entry["resource"] = resource
    method = _METHODS[one.interaction]
    name = one.type if method == "POST" or not one.id else f"{one.type}/{one.id}"
    entry["request"] = {"method": method, "url": name}
    if about.release is not Release.R6:  # S-32
        entry["response"] = {"status": _RESULTS[one.interaction]}
    return entry


def _same(one: Carried, about: About) -> bool:
    """Whether the resource is of the release that the notification is written in; R4 and R4B nobody can tell apart."""
    family = {Release.R4B: Release.R4}
    return family.get(one.release, one.release) is family.get(about.release, about.release)

"""What the operations on subscriptions are asked, by query or by Parameters, and what they answer (spec section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from broker.core.fhir.header import Format
from broker.core.fhir.write import Resource, instant
from broker.core.subscription.elements import Complaints, Element, instant_of
from broker.core.subscription.read import resource_of
from broker.core.subscription.subscription import Content, Status

LARGEST = 2**63 - 1  # of an integer64
Asked = Sequence[tuple[str, str]]  # names and values, in order


class Range(msgspec.Struct, frozen=True):
    """Event numbers, both inclusive; None where it is open."""

    since: int | None = None
    until: int | None = None


class Events(msgspec.Struct, frozen=True):
    """`$events`."""

    range: Range
    content: Content | None = None  # a hint, never more than the subscription's own


class Resend(msgspec.Struct, frozen=True):
    """`$resend`: by number, by time, or both."""

    range: Range
    since: datetime | None = None
    until: datetime | None = None


class StatusAsked(msgspec.Struct, frozen=True):
    """`$status` of the type: of these ids, in one of these states; empty = any."""

    ids: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()


def read_parameters(body: bytes, *, format: Format) -> Asked:
    """The simple parameters of a POST; no body is no parameter. Raises a Refusal."""
    if not body or body.isspace():
        return ()
    complain = Complaints()
    element = Element(resource_of(body, format=format, type="Parameters"), "Parameters", complain)
    found = []
    for one in element.elements("parameter"):
        name = one.text("name", required=True)
        values = [value for key, value in one.values.items() if key.startswith("value")]
        if len(values) != 1 or isinstance(values[0], (dict, list, bool)):
            complain(one.where, "must have one simple value.")
        else:
            found.append((name, str(values[0])))
    complain.raise_if_any()
    return tuple(found)


class _Asked:
    """Parameters by name; what is unknown or written twice is complained about."""

    def __init__(self, asked: Asked, once: Iterable[str], many: Iterable[str] = ()) -> None:
        self.complain = Complaints()
        self.once: dict[str, str] = {}
        self.many: dict[str, list[str]] = {name: [] for name in many}
        known = frozenset(once)
        for name, value in asked:
            if name.startswith("_"):  # _format, _pretty
                continue
            if name in self.many:
                self.many[name] += [part for part in value.split(",") if part]
            elif name not in known:
                self.complain(name, "is no parameter of this operation.", id="unknown-parameter", code="not-supported")
            elif name in self.once:
                self.complain(name, "is given twice.")
            else:
                self.once[name] = value

    def number(self, name: str) -> int | None:
        text = self.once.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LARGEST):
            self.complain(name, "must be an event number, from 0 on.")
            return None
        return int(text)

    def range(self) -> Range:
        found = Range(self.number("eventsSinceNumber"), self.number("eventsUntilNumber"))
        if found.since is not None and found.until is not None and found.since > found.until:
            self.complain("eventsUntilNumber", "is less than eventsSinceNumber.")
        return found

    def instant(self, name: str) -> datetime | None:
        text = self.once.get(name)
        # an unescaped + of a query arrives as a space
        at = None if text is None else instant_of(text.replace(" ", "+"))
        if text is not None and at is None:
            self.complain(name, "must be an instant with its offset, as 2026-11-21T12:00:00Z.")
        return at


def read_events(asked: Asked) -> Events:
    found = _Asked(asked, ("eventsSinceNumber", "eventsUntilNumber", "content"))
    text = found.once.get("content")
    if text is not None and text not in tuple(Content):
        found.complain("content", f"must be one of {', '.join(Content)}.", code="code-invalid")
        text = None
    events = Events(found.range(), None if text is None else Content(text))
    found.complain.raise_if_any()
    return events


def read_resend(asked: Asked) -> Resend:
    names = ("eventsSinceNumber", "eventsUntilNumber", "eventsSinceInstant", "eventsUntilInstant")
    found = _Asked(asked, names)
    resend = Resend(found.range(), found.instant("eventsSinceInstant"), found.instant("eventsUntilInstant"))
    if not found.once and not found.complain.problems:
        found.complain.missing("eventsSinceNumber", "say by number or by time what is to be sent again")
    found.complain.raise_if_any()
    return resend


def read_status(asked: Asked) -> StatusAsked:
    found = _Asked(asked, (), ("id", "status"))
    statuses = []
    for text in found.many["status"]:
        if text not in tuple(Status):
            found.complain("status", f"must be one of {', '.join(Status)}.", code="code-invalid")
        else:
            statuses.append(Status(text))
    found.complain.raise_if_any()
    return StatusAsked(tuple(found.many["id"]), tuple(statuses))


def read_token_request(asked: Asked) -> tuple[str, ...]:
    """The ids of the subscriptions that a token is asked for, at the level of the type."""
    found = _Asked(asked, (), ("id",))
    found.complain.raise_if_any()
    return tuple(found.many["id"])


def token_parameters(*, token: str, expiration: datetime, subscriptions: Sequence[str], url: str) -> Resource:
    """The answer of `$get-ws-binding-token`."""
    parameter: list[Resource] = [
        {"name": "token", "valueString": token},
        {"name": "expiration", "valueDateTime": instant(expiration)},
        *({"name": "subscription", "valueString": one} for one in subscriptions),
        {"name": "websocket-url", "valueUrl": url},
    ]
    return {"resourceType": "Parameters", "parameter": parameter}

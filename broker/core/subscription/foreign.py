"""Reads what a notification says, whoever made it: its kind, its numbers, its subscription (S-24, S-50, S-51).

A broker that carries notifications of others changes nothing in them; it only wants to know which they are.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from broker.core.fhir.header import Format, Release
from broker.core.subscription.content import by_itself, opened
from broker.core.subscription.elements import Values, listed
from broker.core.subscription.notification import Kind

NOTIFICATIONS = ("subscription-notification", "history")
_OF_R4 = {"focus": "valueReference", "additional-context": "valueReference"}


class Package(StrEnum):
    BARE = "bare"  # a notification Bundle by itself
    WRAPPED = "wrapped"  # inside a message, whole (S-48)
    SPLICED = "spliced"  # status and focus among the entries of a message (S-50): read, never written


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """What a notification says of itself."""

    package: Package
    kind: str  # a Kind, or what the other server wrote
    subscription: str = ""
    topic: str = ""
    status: str = ""
    since_start: int | None = None
    numbers: tuple[int, ...] = ()
    focus: tuple[str, ...] = ()
    has_parameters: bool = False  # R4's spelling of the status
    body: bytes = b""  # the notification Bundle as it stands; of a spliced one the message

    @property
    def is_event(self) -> bool:
        return self.kind in (Kind.EVENT, Kind.QUERY_EVENT)


def read_notification(body: bytes, *, format: Format, release: Release = Release.R4) -> Foreign | None:
    """What the Bundle says as a notification, bare, wrapped or spliced; None where it is none."""
    bundle = opened(body, format=format, release=release)
    if not bundle.entries:
        return None
    if bundle.type in NOTIFICATIONS:
        return said_by(bundle.entries[0].values, Package.BARE, body)
    if bundle.type != "message" or len(bundle.entries) < 2:
        return None
    second = bundle.entries[1]
    if second.type != "Bundle":
        return said_by(second.values, Package.SPLICED, body)
    whole = by_itself(second.raw, format)
    inner = opened(whole, format=format, release=release)
    if inner.type not in NOTIFICATIONS or not inner.entries:
        return None
    return said_by(inner.entries[0].values, Package.WRAPPED, whole)


def said_by(status: Values, package: Package, body: bytes) -> Foreign | None:
    """What a status says; None where the resource is none."""
    match status.get("resourceType"):
        case "SubscriptionStatus":
            return _of_status(status, package, body)
        case "Parameters":
            return _of_parameters(status, package, body)
    return None


def _of_status(values: Values, package: Package, body: bytes) -> Foreign | None:
    if not isinstance(values.get("type"), str):
        return None
    events = [event for event in listed(values.get("notificationEvent")) if isinstance(event, dict)]
    return Foreign(
        package=package,
        kind=values["type"],
        subscription=_reference(values.get("subscription")),
        topic=_text(values.get("topic")),
        status=_text(values.get("status")),
        since_start=_number(values.get("eventsSinceSubscriptionStart")),
        numbers=_numbers([event.get("eventNumber") for event in events]),
        focus=tuple(name for name in (_reference(event.get("focus")) for event in events) if name),
        body=body,
    )


def _of_parameters(values: Values, package: Package, body: bytes) -> Foreign | None:
    """R4; a subscription is also found as a text, as servers write it (corpus)."""
    parameters = _named(values.get("parameter"))
    kinds = parameters.get("type", [])
    if not kinds or "subscription" not in parameters:
        return None
    events = [_named(event.get("part")) for event in parameters.get("notification-event", [])]
    numbers = [_value(one) for event in events for one in event.get("event-number", [])]
    focus = [_reference(_value(one)) for event in events for one in event.get("focus", [])]
    return Foreign(
        package=package,
        kind=_text(_value(kinds[0])),
        subscription=_reference(_value(parameters["subscription"][0])),
        topic=_first(parameters, "topic"),
        status=_first(parameters, "status"),
        since_start=_number(_first(parameters, "events-since-subscription-start")),
        numbers=_numbers(numbers),
        focus=tuple(name for name in focus if name),
        has_parameters=True,
        body=body,
    )


def _named(parameters: object) -> dict[str, list[Values]]:
    found: dict[str, list[Values]] = {}
    for one in listed(parameters):
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            found.setdefault(one["name"], []).append(one)
    return found


def _first(parameters: dict[str, list[Values]], name: str) -> str:
    return _text(_value(parameters[name][0])) if name in parameters else ""


def _value(parameter: Values) -> object:
    """The value of a parameter, of whatever type."""
    return next((value for name, value in parameter.items() if name.startswith("value")), None)


def _reference(value: object) -> str:
    return _text(value.get("reference")) if isinstance(value, dict) else _text(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    """An event number: a text in R4B and in R5's JSON, a number in the JSON of some servers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return None


def _numbers(found: list[object]) -> tuple[int, ...]:
    return tuple(number for number in map(_number, found) if number is not None)


def missed(last: int, foreign: Foreign) -> tuple[int, int] | None:
    """The numbers between the last that was seen and this notification, both inclusive; None without a gap (S-24)."""
    first = min(foreign.numbers, default=None)
    if first is None:
        first = None if foreign.since_start is None else foreign.since_start + 1
    return (last + 1, first - 1) if first is not None and first > last + 1 else None

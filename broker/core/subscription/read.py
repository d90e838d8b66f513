"""Reads a Subscription out of a resource of any of the three models, JSON or XML (S-1 to S-7)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from broker.core.fhir import complaints, json_text, wire
from broker.core.fhir.header import Format, Release
from broker.core.outcome import SubscriptionRefused
from broker.core.subscription.elements import Complaints, Element, Values
from broker.core.subscription.read_r4 import read_r4
from broker.core.subscription.read_r5 import read_r5
from broker.core.subscription.subscription import Subscription
from broker.core.subscription.xml_values import values_of

LARGEST = wire.HEADER_BYTES  # a Subscription has a kilobyte or two


def read_subscription(
    body: bytes, *, format: Format, release: Release, is_topic: Callable[[str], bool] = lambda url: False
) -> Subscription:
    """The Subscription that a client sent; raises a Refusal that names each element that is wrong.

    `release` is what media type or URL say. `is_topic` tells whether a canonical is a topic of ours: by it, R4's
    `criteria` is a topic although no extension says so (S-1).
    """
    values = resource_of(body, format=format, type="Subscription")
    complain = Complaints()
    element = Element(values, "Subscription", complain)
    if release.identifies_by_bundle_identifier or _is_native(values):
        found = read_r5(element, release=release)
    else:
        found = read_r4(element, release=release, is_topic=is_topic)
    complain.raise_if_any()
    return found


def resource_of(body: bytes, *, format: Format, type: str) -> Values:
    """The values of a resource that must be of this type."""
    if not body or body.isspace():
        raise SubscriptionRefused(f"The body is empty: send a {type}.", id="empty-body", code="required")
    if len(body) > LARGEST:
        raise SubscriptionRefused(
            f"The {type} is larger than {LARGEST >> 10} KiB: none needs that.", id="too-large", code="too-long"
        )
    values = values_of(body) if format is Format.XML else _json(body, type)
    found = values.get("resourceType")
    if found != type:
        raise SubscriptionRefused(
            f"The body is {_named(found)}: a {type} is expected here.",
            id="wrong-resource-type",
            code="structure",
            expression=type,
        )
    return values


def _json(body: bytes, type: str) -> Values:
    text = json_text.text_of(body)
    json_text.check_syntax(text)
    json_text.check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _WrittenTwiceError as error:  # two readers would see two endpoints
        raise complaints.written_twice(type, str(error)) from None
    return value if isinstance(value, dict) else {}


class _WrittenTwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise _WrittenTwiceError(next(name for name in names if names.count(name) > 1)[:64])
    return value


def _is_native(values: Values) -> bool:
    """R5's elements under an R4 version: the client forgot to say which release it means, and no R4 reader errs."""
    return "channelType" in values and "channel" not in values and "criteria" not in values


def _named(type: object) -> str:
    return f"of type {type[:64]!r}" if isinstance(type, str) and type else "no resource"

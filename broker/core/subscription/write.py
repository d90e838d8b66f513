"""Writes a Subscription as a resource again, as its model spells it; secrets are not shown (S-60)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import orjson

from broker.core.fhir.header import Format
from broker.core.fhir.write import Resource, instant, write
from broker.core.subscription.subscription import (
    BACKPORT,
    HIDDEN,
    PROFILE,
    R5_CHANNELS,
    STANDARD_CHANNELS,
    Filter,
    Model,
    Subscription,
)

# The order of the elements, which XML asks for.
_START = (
    *("resourceType", "id", "meta", "implicitRules", "language", "text", "contained", "extension"),
    "modifierExtension",
)
_R4 = (*_START, "status", "contact", "end", "reason", "criteria", "error", "channel")
_META = ("id", "extension", "versionId", "lastUpdated", "source", "profile", "security", "tag")
_R5 = (
    *(*_START, "identifier", "name", "status", "topic", "contact", "end", "managingEntity", "reason", "filterBy"),
    *("channelType", "endpoint", "parameter", "heartbeatPeriod", "timeout", "contentType", "content", "maxCount"),
)


def write_subscription(
    subscription: Subscription,
    *,
    format: Format,
    last_updated: datetime | None = None,
    version: str = "",
    error: str = "",
) -> bytes:
    """The resource as a client may read it; `error` is shown where the release has an element for it (not R5)."""
    return write(as_stored(subscription, last_updated=last_updated, version=version, error=error), format)


def as_stored(
    subscription: Subscription, *, last_updated: datetime | None = None, version: str = "", error: str = ""
) -> Resource:
    """The same as values."""
    resource = as_resource(subscription, error=error)
    if last_updated is not None:
        about: Resource = {"versionId": version} if version else {}
        resource["meta"] = {**about, "lastUpdated": instant(last_updated), **resource.get("meta", {})}
    return _ordered(resource, _R5 if subscription.model is Model.NATIVE else _R4)


def as_resource(subscription: Subscription, *, error: str = "") -> Resource:
    """The resource as values, in the order of its elements."""
    native = subscription.model is Model.NATIVE
    resource: Resource = {"resourceType": "Subscription", **orjson.loads(subscription.kept)}
    if subscription.id:
        resource["id"] = subscription.id
    resource["status"] = subscription.status.value
    if subscription.end is not None:
        resource["end"] = instant(subscription.end)
    if subscription.reason:
        resource["reason"] = subscription.reason
    if native:
        resource |= _native(subscription)
        return _ordered(resource, _R5)
    if error:
        resource["error"] = error
    if subscription.model is Model.BACKPORT:
        meta = resource.setdefault("meta", {})
        if PROFILE not in meta.get("profile", ()):
            meta["profile"] = [*meta.get("profile", ()), PROFILE]
    resource |= _criteria(subscription)
    resource["channel"] = _channel(subscription)
    return _ordered(resource, _R4)


def _ordered(resource: Resource, order: tuple[str, ...]) -> Resource:
    if isinstance(resource.get("meta"), dict) and order is not _META:
        resource = {**resource, "meta": _ordered(resource["meta"], _META)}
    places = {name: place for place, name in enumerate(order)}
    names = sorted(resource, key=lambda name: places.get(name.removeprefix("_"), len(order)))
    return {name: resource[name] for name in names}


def _native(subscription: Subscription) -> Resource:
    channel = subscription.channel
    found: Resource = {"topic": subscription.topic}
    if subscription.filters:
        found["filterBy"] = [_filter_by(one) for one in subscription.filters]
    found["channelType"] = {"system": channel.system, "code": channel.code}
    if subscription.endpoint:
        found["endpoint"] = subscription.endpoint
    if subscription.headers:
        found["parameter"] = [{"name": header.name, "value": HIDDEN} for header in subscription.headers]
    numbers = {
        "heartbeatPeriod": _seconds(subscription.heartbeat),
        "timeout": _seconds(subscription.timeout),
        "contentType": subscription.media_type or None,
        "content": None if subscription.content is None else subscription.content.value,
        "maxCount": subscription.max_count,
    }
    return found | {name: value for name, value in numbers.items() if value is not None}


def _filter_by(one: Filter) -> Resource:
    found = {
        "resourceType": one.resource_type,
        "filterParameter": one.parameter,
        "comparator": one.comparator,
        "modifier": one.modifier,
        "value": one.value,
    }
    return {name: value for name, value in found.items() if value}


def _criteria(subscription: Subscription) -> Resource:
    if subscription.model is Model.CLASSIC:
        return {"criteria": subscription.criteria}
    found: Resource = {"criteria": subscription.topic}
    if subscription.filters:
        url = BACKPORT + "filter-criteria"
        found["_criteria"] = {
            "extension": [{"url": url, "valueString": _search_text(one)} for one in subscription.filters]
        }
    return found


def _search_text(one: Filter) -> str:
    value = one.value.replace("%", "%25").replace("&", "%26")
    return str(msgspec.structs.replace(one, value=value))


def _channel(subscription: Subscription) -> Resource:
    extensions = _numbers(subscription)
    channel: Resource = {"extension": extensions} if extensions else {}
    type = subscription.channel
    channel["type"] = type.code if type.code in {*STANDARD_CHANNELS, "sms"} else "message"
    if type.system != R5_CHANNELS:
        coding = {"system": type.system, "code": type.code}
        channel["_type"] = {"extension": [{"url": BACKPORT + "channel-type", "valueCoding": coding}]}
    if subscription.endpoint:
        channel["endpoint"] = subscription.endpoint
    if subscription.media_type:
        channel["payload"] = subscription.media_type
    if subscription.content is not None:
        url = BACKPORT + "payload-content"
        channel["_payload"] = {"extension": [{"url": url, "valueCode": subscription.content.value}]}
    if subscription.headers:
        channel["header"] = [f"{header.name}: {HIDDEN}" for header in subscription.headers]
    return channel


def _numbers(subscription: Subscription) -> list[Resource]:
    found: dict[str, tuple[str, Any]] = {
        "heartbeat-period": ("valueUnsignedInt", _seconds(subscription.heartbeat)),
        "timeout": ("valueUnsignedInt", _seconds(subscription.timeout)),
        "max-count": ("valuePositiveInt", subscription.max_count),
    }
    return [{"url": BACKPORT + name, kind: value} for name, (kind, value) in found.items() if value is not None]


def _seconds(time: timedelta | None) -> int | None:
    return None if time is None else int(time.total_seconds())

"""What the tests of subscriptions share: the corpus, an offer, a topic, subscriptions in each model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from broker.core.address_pattern import AddressPattern, AddressPatterns
from broker.core.fhir.header import Format, Release
from broker.core.subscription.check import ChannelOffer, Offer
from broker.core.subscription.read import read_subscription
from broker.core.subscription.subscription import (
    BACKPORT,
    OWN_CHANNELS,
    R5_CHANNELS,
    ChannelType,
    Content,
    Model,
    Status,
    Subscription,
)
from broker.core.subscription.topic import EventTrigger, FilterBy, ResourceTrigger, Topic, answers_to

CORPUS = Path(__file__).parent.parent / "corpus" / "subscriptions"
CANDLE = CORPUS / "FHIR__fhir-candle"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ENCOUNTERS = "http://example.org/FHIR/SubscriptionTopic/encounter-complete"

TOPIC = Topic(
    url=ENCOUNTERS,
    version="1.0.0",
    resources=(ResourceTrigger(resource="Encounter"),),
    filters=(FilterBy(parameter="patient", resource="Encounter"), FilterBy(parameter="length", comparators=("gt",))),
)
ADMISSIONS = Topic(
    url="http://example.org/admissions", events=(EventTrigger(event="admit"),), query="https://s/{since}"
)


def topic_of(canonical: str) -> Topic | None:
    return next((topic for topic in (TOPIC, ADMISSIONS) if answers_to(topic, canonical)), None)


def offer(**changed: Any) -> Offer:
    rest_hook = ChannelOffer(schemes=("https",), cloudevents=True, classic=True)
    patterns = ("https://example.org/*", "https://subscriptions.argo.run/*")
    allowed = AddressPatterns([AddressPattern.parse(text) for text in patterns])
    known: dict[str, Any] = {
        "channels": {
            (R5_CHANNELS, "rest-hook"): rest_hook,
            (R5_CHANNELS, "websocket"): ChannelOffer(schemes=(), headers=False),
            (R5_CHANNELS, "email"): ChannelOffer(schemes=("mailto",), headers=False, mail=True),
            (R5_CHANNELS, "message"): ChannelOffer(schemes=("https",)),
            (OWN_CHANNELS, "amqp"): ChannelOffer(schemes=("amqp", "amqps")),
        },
        "topic": topic_of,
        "may_point_at": lambda endpoint: endpoint.startswith("mailto:") or allowed.match(endpoint),
    }
    return Offer(**(known | changed))


def r5(**changed: Any) -> dict[str, Any]:
    """A Subscription in R5's spelling; None takes an element away."""
    known: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": "requested",
        "topic": ENCOUNTERS,
        "channelType": {"code": "rest-hook"},
        "endpoint": "https://example.org/hook",
        "contentType": "application/fhir+json",
        "content": "id-only",
    }
    return {name: value for name, value in (known | changed).items() if value is not None}


def r4(*, channel: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """A Subscription in R4's spelling, classic unless changed."""
    known: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to know",
        "criteria": "Encounter?status=finished",
        "channel": {"type": "rest-hook", "endpoint": "https://example.org/hook", **(channel or {})},
    }
    return {name: value for name, value in (known | changed).items() if value is not None}


def extension(name: str, **value: Any) -> dict[str, Any]:
    return {"url": BACKPORT + name, **value}


def read(resource: dict[str, Any] | bytes, release: Release = Release.R5, format: Format = Format.JSON) -> Subscription:
    body = resource if isinstance(resource, bytes) else orjson.dumps(resource)
    return read_subscription(body, format=format, release=release)


def subscription(**changed: Any) -> Subscription:
    known: dict[str, Any] = {
        "model": Model.NATIVE,
        "release": Release.R5,
        "status": Status.ACTIVE,
        "channel": ChannelType(R5_CHANNELS, "rest-hook"),
        "id": "123",
        "topic": ENCOUNTERS,
        "endpoint": "https://example.org/hook",
        "content": Content.ID_ONLY,
        "media_type": "application/fhir+json",
    }
    return Subscription(**(known | changed))

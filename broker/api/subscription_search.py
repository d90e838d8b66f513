"""Which subscriptions and topics a search means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from broker.api.instants import NAME as LAST_UPDATED
from broker.api.instants import bounds
from broker.api.parameters import Parameters
from broker.core.subscription.subscription import R4_CHANNELS, R5_CHANNELS
from broker.core.subscription.topic import Topic
from broker.core.subscription.topic_resource import DEFINITION
from broker.store.telling import Subscribed

Test = Callable[[Subscribed], bool]


def subscriptions_meant(rows: Iterable[Subscribed], asked: Parameters) -> list[Subscribed]:
    tests = list(_tests(asked))
    return [row for row in rows if all(test(row) for test in tests)]


def _tests(asked: Parameters) -> Iterable[Test]:
    since, until = bounds(asked.all(LAST_UPDATED))
    if since is not None:
        yield lambda row: row.changed >= since
    if until is not None:
        yield lambda row: row.changed < until
    by_name: dict[str, Callable[[Subscribed, str], bool]] = {
        "_id": lambda row, wanted: row.subscription.id == wanted,
        "status": lambda row, wanted: row.life.status == wanted.rpartition("|")[2],
        "type": _has_type,
        "url": lambda row, wanted: row.subscription.endpoint == wanted,
        "payload": lambda row, wanted: row.subscription.media_type == wanted,
        "contact": _has_contact,
        "criteria": lambda row, wanted: _begins(row.subscription.topic or row.subscription.criteria, wanted),
        "topic": lambda row, wanted: wanted in (row.subscription.topic, row.subscription.topic_url),
        "content-level": _has_content,
    }
    for name, test in by_name.items():
        if values := asked.any_of(name):
            yield lambda row, test=test, values=values: any(test(row, wanted) for wanted in values)  # type: ignore[misc]


def _begins(text: str, wanted: str) -> bool:
    """As FHIR compares strings, but for accents."""
    return text.casefold().startswith(wanted.casefold())


def _has_type(row: Subscribed, wanted: str) -> bool:
    system, mark, code = wanted.rpartition("|")
    channel = row.subscription.channel
    same = R5_CHANNELS if system == R4_CHANNELS else system
    return channel.code == code and (not mark or channel.system == same)


def _has_content(row: Subscribed, wanted: str) -> bool:
    content = row.subscription.content
    return content is not None and content.value == wanted.rpartition("|")[2]


def _has_contact(row: Subscribed, wanted: str) -> bool:
    system, mark, value = wanted.rpartition("|")
    contacts: Any = orjson.loads(row.subscription.kept).get("contact", ())
    return any(
        isinstance(one, dict) and one.get("value") == value and (not mark or one.get("system", "") == system)
        for one in contacts
    )


def topics_meant(topics: Iterable[tuple[str, Topic]], asked: Parameters) -> list[tuple[str, Topic]]:
    """Pairs of id and topic."""
    by_name: dict[str, Callable[[str, Topic, str], bool]] = {
        "_id": lambda id, topic, wanted: id == wanted,
        "url": lambda id, topic, wanted: topic.url == wanted,
        "version": lambda id, topic, wanted: topic.version == wanted,
        "status": lambda id, topic, wanted: topic.status == wanted.rpartition("|")[2],
        "title": lambda id, topic, wanted: _begins(topic.title, wanted),
        "resource": lambda id, topic, wanted: wanted.removeprefix(DEFINITION) in topic.focus_types,
    }
    found = list(topics)
    for name, test in by_name.items():
        if values := asked.any_of(name):
            found = [(id, one) for id, one in found if any(test(id, one, wanted) for wanted in values)]
    return found

"""An event of a subscription as a CloudEvent: thin, thick, or with the notification Bundle as its data (C-60, C-61)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

import orjson

from broker.core.envelope import Envelope
from broker.core.fhir.media import media_text
from broker.core.subscription.notification import About, Event
from broker.core.subscription.subscription import Content

_NAME = re.compile(r"[A-Za-z0-9]+")


def event_type(prefix: str, topic: str) -> str:
    """`org.example` and `http://hospital.example/topics/admission|2` make `org.example.admission` (C-61).

    Of a canonical only the last segment stands: hosts and paths would make types that nobody can subscribe to by a
    prefix. A topic without a name in it is the prefix alone.
    """
    last = re.split(r"[/:#]", topic.partition("|")[0].rstrip("/"))[-1]
    words = _NAME.findall(last)
    return ".".join((prefix, "-".join(words).lower())) if words else prefix


def envelope_of(
    events: Sequence[Event], about: About, *, prefix: str, base_url: str, at: datetime, causation: str = ""
) -> Envelope:
    """What travels around the events of one notification; `causation` is the id of the message behind them (C-53)."""
    numbers = [event.number for event in events]
    span = at.isoformat() if not numbers else "-".join(map(str, sorted({numbers[0], numbers[-1]})))
    more: list[tuple[str, str]] = []
    if numbers:
        more.append(("sequence", str(numbers[-1])))
        if numbers[-1] < 2**31:  # an Integer of CloudEvents has 32 bits (C-2)
            more.append(("sequencetype", "Integer"))
    if causation:
        more.append(("causationid", causation))
    times = [event.at for event in events if event.at is not None]
    return Envelope(
        id=f"{about.url.removeprefix(base_url).strip('/')}#{span}",
        source=base_url,
        type=event_type(prefix, about.topic),
        time=times[0] if times else at,
        more=tuple(more),
    )


def data_of(event: Event, about: About) -> tuple[bytes, str] | None:
    """The data of one event and its media type, no more than the content level allows; None for no data at all.

    `full-resource`: the resource, byte for byte (thick). `id-only`: where it is to be read (thin). `empty`: where to
    ask for what changed, if the topic says so.
    """
    focus = event.focus
    if about.content is Content.FULL and focus is not None and focus.body:
        return focus.body, media_text(focus.format, focus.release)
    if about.content is not Content.EMPTY and focus is not None:
        found = {"resourceType": focus.type, "id": focus.id}
        if focus.reference.startswith(("https://", "http://")):
            found["url"] = focus.reference
        return orjson.dumps({name: value for name, value in found.items() if value}), "application/json"
    if event.query:
        return orjson.dumps({"url": event.query}), "application/json"
    return None


def since(query: str, at: datetime) -> str:
    """The topic's query with the time that a subscriber last heard of, `{since}` being its place (S-57a)."""
    return query.replace("{since}", quote(at.isoformat(timespec="milliseconds"), safe=":"))

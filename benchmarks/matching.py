"""One message against many subscriptions: taken apart, what topics tell of it found, and who hears of it.

usage: matching.py --kind value|rules|all|different --count 10000 [--events 200]

Writes as JSON how long that took, from the bytes of the message to the ids of the subscriptions.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

from broker.core.fhir.header import Event, Format, Header, Release
from broker.core.subscription.content import Content
from broker.core.subscription.matching import Subscribers
from broker.core.subscription.occurrence import Topics
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Filter, Model, Status, Subscription
from broker.core.subscription.topic import Topic
from broker.core.subscription.topic_form import topic_from

WHO, SINCE = "patient", "date"
TOPIC = topic_from(
    {"url": "http://bench.example/topics/encounter", "on": [{"resource": "Encounter"}], "filters": [WHO, SINCE]}
)
PADDING = "x" * 3000  # of a narrative: the message has 4 KiB, as in the other parts

Filters = tuple[tuple[str, str], ...]
KINDS: dict[str, Callable[[int], Filters]] = {
    "value": lambda n: ((WHO, f"Patient/{n}"),),  # one of them hears
    "rules": lambda n: ((SINCE, f"ge{2000 + n % 100}-01-01"),),  # a hundred different rules
    "all": lambda n: (),
    "different": lambda n: ((SINCE, f"ge2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}.{n:06}Z"),),
}


def body_of(number: int) -> bytes:
    encounter = {
        "resourceType": "Encounter",
        "id": str(number),
        "status": "finished",
        "subject": {"reference": f"Patient/{number}"},
        "period": {"start": "2026-11-21T12:00:00Z"},
    }
    header = {"resourceType": "MessageHeader", "eventCoding": {"code": "admit"}, "text": {"div": PADDING}}
    entries = [{"fullUrl": "urn:uuid:h", "resource": header}, {"fullUrl": "urn:uuid:e", "resource": encounter}]
    return json.dumps({"resourceType": "Bundle", "type": "message", "entry": entries}).encode()


def subscription(number: int, filters: Filters) -> Subscription:
    return Subscription(
        model=Model.NATIVE,
        release=Release.R5,
        status=Status.ACTIVE,
        channel=ChannelType(R5_CHANNELS, "websocket"),
        id=str(number),
        topic=TOPIC.url,
        filters=tuple(Filter(parameter=name, value=value) for name, value in filters),
    )


def hearing(topics: Topics, subscribers: Subscribers, header: Header, body: bytes) -> int:
    """How many hear of one message."""
    if not topics.may_concern(str(header.event), header.format, body):
        return 0
    content = Content(body, header)
    return sum(len(subscribers.hearing(one, content.aliases)) for one in topics.occurrences(content))


def measured(kind: str, count: int, events: int) -> dict[str, float]:
    header = Header(release=Release.R4, format=Format.JSON, event=Event(code="admit"))
    topics, subscribers, topic = Topics([TOPIC]), Subscribers(), TOPIC
    before, start = _memory(), time.perf_counter()
    _fill(subscribers, topic, kind, count)
    filled = time.perf_counter() - start
    took, heard = [], 0
    for number in range(events):
        body = body_of(number % count)
        start = time.perf_counter()
        heard += hearing(topics, subscribers, header, body)
        took.append(time.perf_counter() - start)
    took.sort()
    return {
        "subscriptions": count,
        "heard": heard / events,
        "p50_ms": statistics.median(took) * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
        "per_second": events / sum(took),
        "us_each_added": filled / count * 1e6,
        "kib_each": (_memory() - before) / count,
    }


def _fill(subscribers: Subscribers, topic: Topic, kind: str, count: int) -> None:
    for number in range(count):
        subscribers.add(subscription(number, KINDS[kind](number)), topic)


def _memory() -> float:
    """The most that this process had so far, in KiB."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=200)
    given = parser.parse_args()
    print(json.dumps(measured(given.kind, given.count, given.events)))


if __name__ == "__main__":
    main()

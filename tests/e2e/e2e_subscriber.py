"""A subscriber, as its user would write it: once, whatever the channel, the FHIR version and the server.

It reads the status entry of a notification, counts numbers, and asks `$events` for those that it missed. What it knows
of the channel is how to get at the Bundle; what it knows of the Subscription, the notification itself has told it.
"""

from __future__ import annotations

import email
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from e2e_messages import ask, eventually
from e2e_receiver import Got, Reply
from websockets.asyncio.client import ClientConnection, connect

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
STANDARD = "http://terminology.hl7.org/CodeSystem/subscription-channel-type"
OWN = "urn:x-fhir-broker:channel"
R4, R5 = "R4", "R5"
Take = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The first entry of a notification, in R5 and R4B a SubscriptionStatus, in R4 a Parameters."""

    kind: str
    subscription: str
    topic: str
    total: int
    events: tuple[tuple[int, str], ...]  # number and focus


def status_of(bundle: bytes) -> Status:
    loaded = orjson.loads(bundle)
    assert loaded["resourceType"] == "Bundle", loaded
    first = loaded["entry"][0]["resource"]
    return _from_parameters(first) if first["resourceType"] == "Parameters" else _from_status(first)


def _from_status(status: dict[str, Any]) -> Status:
    events = [
        (int(one["eventNumber"]), one.get("focus", {}).get("reference", ""))
        for one in status.get("notificationEvent", ())
    ]
    return Status(
        kind=status["type"],
        subscription=status["subscription"]["reference"],
        topic=status.get("topic", ""),
        total=int(status.get("eventsSinceSubscriptionStart", 0)),
        events=tuple(events),
    )


def _from_parameters(parameters: dict[str, Any]) -> Status:
    found: dict[str, Any] = {}
    events: list[tuple[int, str]] = []
    for one in parameters["parameter"]:
        if one["name"] == "notification-event":
            part = {each["name"]: _value(each) for each in one["part"]}
            events.append((int(part["event-number"]), part.get("focus", "")))
        else:
            found[one["name"]] = _value(one)
    return Status(
        kind=found["type"],
        subscription=found["subscription"],
        topic=found.get("topic", ""),
        total=int(found.get("events-since-subscription-start", 0)),
        events=tuple(events),
    )


def _value(parameter: dict[str, Any]) -> Any:
    value = next(value for name, value in parameter.items() if name.startswith("value"))
    return value["reference"] if isinstance(value, dict) and "reference" in value else value


@dataclass(slots=True)
class Told:
    """Of one Subscription: what was heard, by number."""

    total: int = 0
    focus: dict[int, str] = field(default_factory=dict)
    times: Counter[int] = field(default_factory=Counter)
    topics: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[int]:
        return [number for number in range(1, self.total + 1) if number not in self.focus]

    @property
    def foci(self) -> list[str]:
        """By number, without the server that has them."""
        return ["/".join(self.focus[number].split("/")[-2:]) for number in sorted(self.focus)]


class Subscriber:
    """`take` is all that a channel calls; one that has lost what was on its way says nothing."""

    def __init__(self) -> None:
        self.told: dict[str, Told] = {}  # by the id of the Subscription
        self.kinds: Counter[str] = Counter()

    def of(self, subscription: str) -> Told:
        """Of a Subscription by its URL, whichever base of its server that begins with."""
        return self.told.setdefault(subscription.rpartition("/")[2], Told())

    def take(self, bundle: bytes) -> Status:
        status = status_of(bundle)
        self.kinds[status.kind] += 1
        told = self.of(status.subscription)
        told.total = max(told.total, status.total, *(number for number, _ in status.events), 0)
        if status.topic:
            told.topics.add(status.topic)
        for number, focus in status.events:
            before = told.focus.setdefault(number, focus)
            assert before == focus, f"number {number} was {before} and is {focus}: a number is given once"
            told.times[number] += 1
        return status

    async def catch_up(self, http: aiohttp.ClientSession, subscription: str) -> Told:
        """Gap, then `$events` from the first number that is missing (S-24), until nothing is missing any more."""
        told = self.of(subscription)
        said = await ask(http, "GET", f"{subscription}/$status")
        assert said.status == 200, said
        told.total = max(told.total, status_of(said.body).total)
        while missing := told.missing:
            query = f"eventsSinceNumber={missing[0]}&eventsUntilNumber={missing[-1]}"
            said = await ask(http, "GET", f"{subscription}/$events?{query}")
            assert said.status == 200, said
            assert self.take(said.body).kind == "query-event"
            assert told.missing != missing, f"$events has none of {missing[:5]}…"
        return told


# -- how each channel hands over a Bundle


def from_message(message: bytes) -> bytes:
    """Of a FHIR message: the Bundle that its header is about (S-48). Whatever else messages are for is elsewhere."""
    bundle = orjson.loads(message)
    assert bundle["type"] == "message", bundle
    header = bundle["entry"][0]["resource"]
    [focus] = header["focus"]
    [inside] = [one["resource"] for one in bundle["entry"] if one.get("fullUrl") == focus["reference"]]
    return orjson.dumps(inside)


def from_mail(mail: bytes) -> bytes:
    """Of a mail: the attachment that a program can read (S-45)."""
    parsed = email.message_from_bytes(mail)
    [attachment] = [part for part in parsed.walk() if part.get_content_type() == "application/fhir+json"]
    found = attachment.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


# -- how one subscribes


def subscription(version: str, topic: str, channel: str, *, endpoint: str = "", media: str = "", **more: Any) -> bytes:
    """As the version writes it; `most` events in a notification, `content` of it."""
    most, content, media = more.get("most"), more.get("content", "id-only"), media or "application/fhir+json"
    if version == R5:
        resource: dict[str, Any] = {
            "resourceType": "Subscription",
            "status": "requested",
            "topic": topic,
            "reason": "to know",
            "channelType": {"system": OWN if channel == "amqp" else STANDARD, "code": channel},
            "contentType": media,
            "content": content,
            **({"endpoint": endpoint} if endpoint else {}),
            **({"maxCount": most} if most else {}),
        }
        return orjson.dumps(resource)
    extensions = [{"url": f"{BACKPORT}max-count", "valuePositiveInt": most}] if most else []
    channel_: dict[str, Any] = {
        "type": channel,
        "payload": media,
        "_payload": {"extension": [{"url": f"{BACKPORT}payload-content", "valueCode": content}]},
        **({"endpoint": endpoint} if endpoint else {}),
        **({"extension": extensions} if extensions else {}),
    }
    return orjson.dumps(
        {
            "resourceType": "Subscription",
            "meta": {"profile": [f"{BACKPORT}subscription"]},
            "status": "requested",
            "reason": "to know",
            "criteria": topic,
            "channel": channel_,
        }
    )


async def subscribe(http: aiohttp.ClientSession, base: str, version: str, resource: bytes) -> str:
    """The URL of the new Subscription, at the base of its version."""
    fhir = {R4: "4.0", R5: "5.0"}[version]
    headers = {"Content-Type": f"application/fhir+json; fhirVersion={fhir}"}
    said = await ask(http, "POST", f"{base}/{version}/Subscription", data=resource, headers=headers)
    assert said.status == 201, said
    return f"{base}/{version}/Subscription/{said.json['id']}"


async def until_active(http: aiohttp.ClientSession, url: str) -> None:
    await eventually(lambda: is_active(http, url), within=30)


async def is_active(http: aiohttp.ClientSession, url: str) -> bool:
    said = await ask(http, "GET", url)
    assert said.status == 200, said
    return bool(said.json["status"] == "active")


class NotNow(Exception):
    """The server is just starting or stopping."""


async def binding(http: aiohttp.ClientSession, url: str) -> tuple[str, str]:
    """Where to connect, and the token (S-43)."""
    said = await ask(http, "POST", f"{url}/$get-ws-binding-token")
    if said.status == 503:
        raise NotNow
    assert said.status == 200, said
    found = {one["name"]: _value(one) for one in said.json["parameter"]}
    return found["websocket-url"], found["token"]


async def bound(http: aiohttp.ClientSession, url: str) -> ClientConnection:
    where, token = await binding(http, url)
    socket = await connect(where, proxy=None, max_size=None)
    await socket.send(f"bind-with-token {token}")
    return socket


def answering(take: Take, read: Callable[[bytes], bytes] = lambda body: body) -> Callable[[Got], Reply]:
    def answer(got: Got) -> Reply:
        take(read(got.body))
        return Reply()

    return answer

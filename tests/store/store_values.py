"""Values that the store's tests write."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from broker.core.delivery import AnswerState, State, Step
from broker.core.envelope import Envelope
from broker.core.fhir.header import Destination, Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.message import Message
from broker.core.policy import DEFAULT
from broker.store import Change, NewDelivery, NewMessage, Settlement

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def header(**more: Any) -> Header:
    values: dict[str, Any] = {
        "release": Release.R4, "format": Format.JSON, "event": Event("http://e", "sick"), "bundle_id": "b",
        "message_id": "m", "source": "urn:s", "destinations": (Destination(endpoint="urn:d"),),
    }  # fmt: skip
    return Header(**values | more)


def quoting(id: str, code: str = "ok") -> ResponseLink:
    return ResponseLink(identifier=Identifier(value=id), code=code)


def delivery(key: str = "urn:d", **more: Any) -> NewDelivery:
    values: dict[str, Any] = {
        "destination": key, "key": key, "address": f"test://{key}", "lane": "lane", "state": State.WAITING,
        "due": NOW + timedelta(seconds=1), "expiry": NOW + DAY, "policy": DEFAULT,
    }  # fmt: skip
    return NewDelivery(**values | more)


def expecting(key: str = "urn:d", **more: Any) -> NewDelivery:
    return delivery(key, answer=AnswerState.OPEN, answer_by=NOW + DAY, **more)


def mail(mailbox: str, **more: Any) -> NewDelivery:
    return delivery(mailbox, address="mailbox:", lane="", state=State.DONE, mailbox=mailbox, **more)


def new(
    identity: str | None = "bundle:b",
    *deliveries: NewDelivery,
    body: bytes = b"{}",
    source: str = "urn:s",
    about: Header | None = None,
    **more: Any,
) -> NewMessage:
    digest = hashlib.sha256(body).digest()
    head = about or header()
    message = Message(
        header=head, envelope=Envelope(id="e", source=source), media_type="application/fhir+json", source=source,
        digest="sha-256=", size=len(body), channel="test", peer="", at=NOW,
    )  # fmt: skip
    message = msgspec.structs.replace(message, fate=more.pop("fate", message.fate))
    return NewMessage(
        message=message, body=body, digest=digest, source_key=source, identity=identity,
        deliveries=deliveries or (delivery(),), **{"quotes": (), **more},
    )  # fmt: skip


def step(what: str = "delivered", **more: Any) -> Step:
    return Step(at=NOW, what=what, **more)


def ended(position: int, *numbers: int, state: State = State.DONE, **more: Any) -> Change:
    return Change(position=position, numbers=numbers or (1,), state=state, step=step(), **more)


def settlement(position: int, *numbers: int, comes: NewMessage | None = None, **more: Any) -> Settlement:
    return Settlement(change=ended(position, *numbers, **more), comes=comes)

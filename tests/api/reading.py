"""Helps the tests of the FHIR reading side: a real store, the real frame, and an HTTP client."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from broker.api.fhir import add_fhir
from broker.api.subscription_service import Owner, SubscriptionService, nobody
from broker.core.addressing import name_key
from broker.core.delivery import AnswerState, State
from broker.core.envelope import EMPTY
from broker.core.fhir.header import Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.ids import MessageIds
from broker.core.message import Message
from broker.core.policy import DEFAULT
from broker.core.resolution import How
from broker.directory import Entry, Listed, Snapshot
from broker.flow.here import Here
from broker.flow.notify import Followers
from broker.serving import listen
from broker.store import Kept, NewDelivery, NewMessage
from broker.store.shared_reads import SharedReads
from broker.store.sqlite import SqliteStore
from broker.web import application

BASE_URL = "https://broker.example/fhir"
START = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
ME = "urn:oid:1.2.3"
SOURCE = "urn:oid:9.8.7"
BODY = b'{ "resourceType": "Bundle",\r\n "type": "message" }'
XML_BODY = b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<Bundle xmlns="http://hl7.org/fhir"><type  value="message"/></Bundle>'
_ids = count()

_PACKAGES = {
    Release.R4: "fhir.resources.R4B",
    Release.R4B: "fhir.resources.R4B",
    Release.R5: "fhir.resources",
    Release.R6: "fhir.resources",
}


def validated(resource: dict[str, Any], release: Release = Release.R4) -> dict[str, Any]:
    """The resource, once fhir.resources found it valid."""
    name = resource["resourceType"]
    module = import_module(f"{_PACKAGES[release]}.{name.lower()}")
    getattr(module, name).model_validate(resource)
    return resource


@dataclass
class Clock:
    at: datetime = START

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **time: float) -> None:
        self.at += timedelta(**time)


def message(body: bytes = BODY, **changed: Any) -> Message:
    header: dict[str, Any] = {
        "release": Release.R4,
        "format": Format.XML if body.lstrip(b"\xef\xbb\xbf").startswith(b"<") else Format.JSON,
        "event": Event("http://example.org/events", "admit"),
        "bundle_id": f"b{next(_ids)}",
        "source": SOURCE,
    }
    header |= {name: changed.pop(name) for name in tuple(changed) if name in Header.__struct_fields__}
    known = Header(**header)
    values: dict[str, Any] = {
        "header": known,
        "envelope": EMPTY,
        "media_type": f"application/fhir+{known.format}; fhirVersion={known.release}",
        "source": known.source,
        "digest": "sha-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode(),
        "size": len(body),
        "channel": "http",
        "peer": "127.0.0.1:4",
        "at": START,
    }
    return Message(**(values | changed))


def delivery(destination: str = ME, **changed: Any) -> NewDelivery:
    """To the destination's mailbox, unless said otherwise."""
    known: dict[str, Any] = {
        "destination": destination,
        "key": name_key(destination),
        "address": "mailbox:",
        "lane": "",
        "state": State.DONE,
        "due": START,
        "expiry": START + timedelta(days=1),
        "policy": DEFAULT,
        "mailbox": name_key(destination),
    }
    return NewDelivery(**(known | changed))


def carried(destination: str = ME, **changed: Any) -> NewDelivery:
    """To an address over a channel; it waits, and looks for a response."""
    known: dict[str, Any] = {
        "address": "https://receiver.example/fhir",
        "lane": "receiver.example",
        "state": State.WAITING,
        "mailbox": None,
        "answer": AnswerState.OPEN,
        "answer_by": START + timedelta(days=1),
    }
    return delivery(destination, **(known | changed))


def response(**more: Any) -> dict[str, Any]:
    """What makes a message a response."""
    return {"response": ResponseLink(identifier=Identifier(value=more.get("to", "m1")), code=more.get("code", "ok"))}


@dataclass
class Reply:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [entry for entry in self.json.get("entry", ()) if entry["search"]["mode"] == "match"]

    @property
    def warnings(self) -> list[dict[str, Any]]:
        return [
            issue
            for entry in self.json.get("entry", ())
            if entry["search"]["mode"] == "outcome"
            for issue in entry["resource"]["issue"]
        ]

    @property
    def positions(self) -> list[int]:
        return [int(entry["id"]) for entry in self.entries]

    @property
    def links(self) -> dict[str, str]:
        return {link["relation"]: link["url"] for link in self.json["link"]}

    @property
    def issue(self) -> dict[str, Any]:
        found: dict[str, Any] = validated(self.json)["issue"][0]
        return found

    @property
    def ids(self) -> set[str]:
        """The stable ids in the first issue."""
        return {coding["code"] for coding in self.issue["details"]["coding"]}

    @property
    def text(self) -> str:
        return str(self.issue["details"]["text"])


@dataclass
class Side:
    store: SqliteStore
    clock: Clock
    here: Here
    followers: Followers
    client: aiohttp.ClientSession
    url: str
    snapshot: Snapshot = field(default_factory=Snapshot)
    withdrawn: list[tuple[int, str]] = field(default_factory=list)
    under_way: set[int] = field(default_factory=set)

    async def keep(self, body: bytes = BODY, *, deliveries: Sequence[NewDelivery] | None = None, **changed: Any) -> int:
        more = {
            name: changed.pop(name)
            for name in ("answers", "quotes", "identity", "reports_on", "final")
            if name in changed
        }
        one = message(body, **changed)
        new = NewMessage(
            message=one,
            body=body,
            digest=hashlib.sha256(body).digest(),
            source_key=name_key(one.source or ""),
            identity=more.pop("identity", f"bundle:{one.header.bundle_id}"),
            quotes=more.pop("quotes", ()),
            deliveries=(delivery(),) if deliveries is None else tuple(deliveries),
            **more,
        )
        kept = await self.store.accept(new)
        assert isinstance(kept, Kept)
        for planned in new.deliveries:
            if planned.mailbox is not None:
                self.followers.wake(planned.mailbox, kept.position)
        return kept.position

    async def withdraw(self, position: int, why: str) -> bool:
        self.withdrawn.append((position, why))
        withdrawn = await self.store.withdraw(position, self.clock(), why, self.under_way)
        return len(withdrawn.numbers) == len(await self.store.deliveries(position))

    async def ask(self, method: str, path: str, **more: Any) -> Reply:
        url = path if path.startswith("http") else self.url + path
        url = url.replace("https://broker.example/fhir", self.url + "/fhir")
        async with self.client.request(method, URL(url, encoded=True), allow_redirects=False, **more) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def id(self, position: int) -> str:
        return self.here.ids.of(position)


@asynccontextmanager
async def reading(
    folder: Path,
    *,
    base_url: str = BASE_URL,
    release: Release = Release.R4,
    serves: Callable[[SqliteStore, Here], SubscriptionService] | None = None,
    owner: Owner = nobody,
) -> AsyncIterator[Side]:
    """`serves` makes the service of subscriptions, for those tests that want one."""
    clock = Clock()
    store = SqliteStore(folder / "broker.db", now=clock)
    here = Here(endpoint="urn:oid:1.1", base_url=base_url, ids=MessageIds(store.key), release=release, now=clock)
    app = application(base_url=base_url, default_release=release)
    followers = Followers()
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept"]) as client:
        side = Side(store, clock, here, followers, client, "")
        add_fhir(
            app,
            here=here,
            store=store,
            reads=SharedReads(store),
            followers=followers,
            directory=lambda: side.snapshot,
            withdraw=side.withdraw,
            subscriptions=None if serves is None else serves(store, here),
            owner=owner,
        )
        runner = await listen(app, "127.0.0.1:0")
        side.url = f"http://{runner.listening[0]}"
        try:
            yield side
        finally:
            followers.wake_all()
            await runner.cleanup()
            await store.close()


def listed(*names: str, address: str = "https://receiver.example/fhir/$process-message", **more: Any) -> Snapshot:
    """A directory in which each name has an entry of its own."""
    return Snapshot(
        Listed(
            name=name,
            how=How.EXACT,
            entries=(Entry(names=(name,), addresses=(address,), origin=f"directory.yaml:{line}", **more),),
        )
        for line, name in enumerate(names, 1)
    )

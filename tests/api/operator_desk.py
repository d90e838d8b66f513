"""An operator's desk for tests: a real store with rows made as the flow makes them, and the real admin routes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from subscription_desk import Subscribing, subscribing

from broker.api.admin import add_admin
from broker.api.health import Health, add_health
from broker.api.metrics import Metrics, add_metrics
from broker.core.addressing import name_key
from broker.core.delivery import AnswerState, Outcome, State, Step
from broker.core.envelope import Envelope
from broker.core.fhir.header import Header
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.hold import Hold
from broker.core.identity import identity, quotable_ids
from broker.core.ids import MessageIds
from broker.core.message import Fate, Message
from broker.core.outcome import Problem, Who
from broker.core.policy import DEFAULT, Rule
from broker.core.rules import RuleSet
from broker.directory import Directory
from broker.flow.intake import Intake
from broker.flow.lane import Lane
from broker.flow.loads import Loads
from broker.store import Change, NewDelivery, NewMessage, Settlement
from broker.store.sqlite import SqliteStore

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
SOURCE, EHR, BOX = "urn:oid:1.2.1001", "urn:oid:1.2.2001", "urn:oid:1.2.3001"
EHR_URL = "http://ehr.example/fhir/$process-message"
LANE = "http:ehr.example:80"
JSON = "application/fhir+json"


def message_bytes(
    number: int = 1,
    *,
    to: str | None = EHR,
    source: str = SOURCE,
    responds_to: str | None = None,
    code: str = "ok",
    more: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    header: dict[str, Any] = {
        "resourceType": "MessageHeader",
        "id": f"header-{number}",
        "eventCoding": {"system": "http://example.org/events", "code": "sick-leave"},
        "source": {"endpoint": source},
    }
    if to is not None:
        header["destination"] = [{"endpoint": to}]
    if responds_to is not None:
        header["response"] = {"identifier": responds_to, "code": code}
    bundle = {
        "resourceType": "Bundle", "id": f"bundle-{number}", "type": "message", "timestamp": "2026-11-21T09:59:00Z",
        "entry": [{"fullUrl": "urn:uuid:0", "resource": header}, *more],
    }  # fmt: skip
    return orjson.dumps(bundle)


@dataclass(kw_only=True)
class Here:
    ids: MessageIds
    endpoint: str = "urn:oid:2.999"
    base_url: str = "http://127.0.0.1:8080/fhir"
    event_prefix: str = "org.example"
    max_message: int = 100_000
    min_free: int = 1
    max_wal: int = 1 << 30
    in_flight: int = 1 << 30
    clock: datetime = NOW

    def now(self) -> datetime:
        return self.clock


@dataclass
class Delivering:
    lanes: dict[str, Lane] = field(default_factory=dict)
    store: SqliteStore | None = None
    holds: dict[str, Hold] = field(default_factory=dict)
    awake: list[tuple[str, str]] = field(default_factory=list)

    async def hold(self, hold: Hold) -> None:
        assert self.store is not None
        await self.store.hold_lane(hold)
        self.holds[hold.lane] = hold

    async def resume(self, name: str) -> bool:
        assert self.store is not None
        self.holds.pop(name, None)
        return await self.store.resume_lane(name)

    def woken(self, lane: str, key: str) -> None:
        self.awake.append((lane, key))

    def is_under_way(self, lane: str, position: int, number: int) -> bool:
        return lane in self.lanes and number in self.lanes[lane].under_way.get(position, ())


@dataclass
class Callers:
    waiting: int = 0

    def count(self) -> int:
        return self.waiting


@dataclass(kw_only=True)
class Desk:
    store: SqliteStore
    here: Here
    directory: Directory
    delivering: Delivering
    callers: Callers
    intake: Intake
    listening: dict[str, str]
    metrics: Metrics
    rules: RuleSet
    woken_by_directory: list[tuple[str, str]]
    client: TestClient[web.Request, web.Application]
    app: web.Application
    subscribed: Subscribing

    # -- what the flow would have written

    async def accept(
        self,
        number: int = 1,
        *,
        deliveries: tuple[NewDelivery, ...] | None = None,
        to: str | None = EHR,
        source: str = SOURCE,
        fate: Fate = Fate.MESSAGE,
        answers: tuple[int, int] | None = None,
        reports_on: int | None = None,
        responds_to: str | None = None,
        code: str = "ok",
        more: Sequence[Mapping[str, Any]] = (),
        expirytime: datetime | None = None,
    ) -> int:
        """Keeps a message; returns its position."""
        body = message_bytes(number, to=to, source=source, responds_to=responds_to, code=code, more=more)
        header = read(body, media_type(JSON))
        message = _message(header, body, fate, expirytime, self.here.clock)
        kept = await self.store.accept(
            NewMessage(
                message=message,
                body=body,
                digest=hashlib.sha256(body).digest(),
                source_key=name_key(source),
                identity=None if fate is Fate.REPORT else identity(header, b"").key,
                quotes=quotable_ids(header) if fate is Fate.MESSAGE else (),
                deliveries=(delivery(),) if deliveries is None else deliveries,
                answers=answers,
                reports_on=reports_on,
            )
        )
        return kept.position

    async def dead(self, number: int = 1, **more: Any) -> int:
        """A message whose first delivery was refused."""
        position = await self.accept(number, **more)
        await self.settle(position, "refused", State.DEAD, note="422 Unprocessable", status=422, problem=REFUSED)
        return position

    async def settle(
        self,
        position: int,
        what: str,
        state: State,
        *,
        number: int = 1,
        note: str = "",
        status: int | None = None,
        problem: Problem | None = None,
        after: timedelta = timedelta(seconds=1),
    ) -> None:
        step = Step(at=self.here.clock + after, what=what, note=note, status=status, took=0.012)
        ended = state is not State.WAITING
        change = Change(
            position=position, numbers=(number,), state=state, step=step, due=None if ended else NOW,
            outcome=Outcome(status=status, problem=problem, body=b'{"secret":1}') if ended else None,
        )  # fmt: skip
        await self.store.settle(Settlement(change=change))

    # -- what the operator asks

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.client.get(f"/admin/v1{path}", headers=headers, allow_redirects=False) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def post(self, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if json is None else orjson.dumps(json)
        async with self.client.post(f"/admin/v1{path}", data=data, headers=headers) as answer:
            return answer.status, orjson.loads(await answer.read())

    def id(self, position: int) -> str:
        return self.here.ids.of(position)

    @property
    def url(self) -> str:
        return str(self.client.make_url("/")).rstrip("/")


REFUSED = Problem(code="processing", id="refused-by-receiver", who=Who.RECEIVER, text="The receiver refused it.")


def delivery(destination: str = EHR, *, address: str = EHR_URL, lane: str = LANE, **more: Any) -> NewDelivery:
    said = {
        "destination": destination, "key": name_key(destination), "address": address, "lane": lane,
        "state": State.WAITING, "due": NOW + timedelta(seconds=1), "expiry": NOW + timedelta(days=1),
        "policy": DEFAULT, "rule": "sick notes", "answer": AnswerState.OPEN, "answer_by": NOW + timedelta(hours=24),
    }  # fmt: skip
    return NewDelivery(**(said | more))


def mail(endpoint: str = BOX) -> NewDelivery:
    return delivery(
        endpoint, address="mailbox:", lane="", state=State.DONE, mailbox=name_key(endpoint), rule="",
        unread_by=NOW + timedelta(days=5), answer=AnswerState.NONE, answer_by=None,
    )  # fmt: skip


def _message(header: Header, body: bytes, fate: Fate, expirytime: datetime | None, at: datetime) -> Message:
    return Message(
        header=header,
        envelope=Envelope(id="e", source=header.source, type="org.example.sick-leave", time=at, expirytime=expirytime),
        media_type=JSON,
        source=header.source,
        digest="sha-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode(),
        size=len(body),
        channel="broker" if fate is Fate.REPORT else "http",
        peer="" if fate is Fate.REPORT else "127.0.0.1:41234",
        at=at,
        fate=fate,
    )


PARTIES = {"north": ("urn:oid:1.2.1001", "urn:oid:1.3.*"), "silent": ()}
RULES = (Rule(name="sick notes", where="broker.yaml:40"),)


@asynccontextmanager
async def operator_desk(
    folder: Path,
    *,
    endpoints: Mapping[str, object] | None = None,
    rules: tuple[Rule, ...] = RULES,
    subscriptions: bool = True,
) -> AsyncIterator[Desk]:
    box: list[Here] = []
    store = SqliteStore(folder / "broker.db", now=lambda: box[0].clock if box else NOW)
    here = Here(ids=MessageIds(store.key))
    box.append(here)
    known = endpoints if endpoints is not None else {EHR: EHR_URL, BOX: "mailbox:"}
    (folder / "directory").mkdir(exist_ok=True)
    directory = Directory(known, ["directory/*.yaml"], folder=folder, file="broker.yaml")
    delivering, callers, intake, listening = (
        Delivering(store=store),
        Callers(),
        Intake(here=here, free=lambda: store.free(), wal=store.wal),
        {"admin": "127.0.0.1:8079"},
    )
    metrics, woken, ruleset = Metrics(), [], RuleSet(rules)

    async def changed(old: Any, new: Any) -> int:
        woken.append((old.version, new.version))
        return 3

    health = Health(
        here=here, store=store, intake=intake, directory=directory, insecure=False, listening=listening
    )  # fmt: skip
    app = web.Application()
    subscribed = subscribing(folder, store=store)
    service = subscribed.service if subscriptions else None
    add_health(app, health, aliases=True)
    add_metrics(
        app, metrics, store=store, delivering=delivering, callers=callers, now=here.now, sources=lambda: (),
        subscriptions=service,
    )  # fmt: skip
    add_admin(
        app, here=here, store=store, directory=directory, rules=ruleset, defaults=DEFAULT, delivering=delivering,
        health=health, ledger=store, parties=PARTIES, changed=changed, subscriptions=service,
    )  # fmt: skip
    try:
        async with TestClient(TestServer(app)) as client:
            yield Desk(
                store=store, here=here, directory=directory, delivering=delivering, callers=callers,
                intake=intake, listening=listening, metrics=metrics, rules=ruleset,
                woken_by_directory=woken, client=client, app=app, subscribed=subscribed,
            )  # fmt: skip
    finally:
        await store.close()


def lane(name: str = LANE) -> Lane:
    return Lane(
        name, loads=Loads(1 << 20), now=lambda: NOW, attempt=_never, start=_never, more=_never, rests=_never  # type: ignore[arg-type]
    )  # fmt: skip


def _never(*_arguments: Any) -> Any:
    raise AssertionError("nothing is carried here")

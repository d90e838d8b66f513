"""An in-process broker for tests: the real flow and the real store, a scripted channel, a clock in hand."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from broker.channel import Arrival, Asked, ChannelSpec, Deferred, Delivered, Kind, Peer, Refused, Transmission
from broker.core.addressing import name_key
from broker.core.answer import Answer
from broker.core.envelope import EMPTY, Envelope
from broker.core.ids import MessageIds
from broker.core.outcome import Problem, Who
from broker.core.policy import DEFAULT, Expects, Late, OnTimeout, Policy, Rule
from broker.core.rules import RuleSet
from broker.directory import Directory, Snapshot, changed_names
from broker.flow.aside import Aside
from broker.flow.callers import Callers
from broker.flow.here import Here
from broker.flow.intake import Intake
from broker.flow.joined import join
from broker.flow.live import Live
from broker.flow.meter import NoMeter
from broker.flow.notify import Followers
from broker.plugins import Channels
from broker.store import Delivery, Filter, MailboxEntry, Stored
from broker.store.shared_reads import SharedReads
from broker.store.sqlite import SqliteStore

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SENDER = "urn:oid:1.1"  # who asks; its mailbox is here
A, B, C, D = (f"urn:oid:2.{number}" for number in range(1, 5))  # who is asked, at test://a/in, …
NOBODY = "urn:oid:9.9"
HERE = "urn:oid:1.2.3"
ENDPOINTS: Mapping[str, object] = {
    SENDER: "mailbox:", A: "test://a/in", B: "test://b/in", C: "test://c/in", D: "mailbox:",
}  # fmt: skip

Result = Delivered | Deferred | Refused
Line = Result | Callable[[Transmission], Result | Awaitable[Result]]

ACCEPTED = Delivered(status=202, note="202 Accepted")


def message(
    bundle: str = "b1",
    header: str = "m1",
    *,
    to: Sequence[str] = (A,),
    source: str = SENDER,
    responds: str | Mapping[str, str] | None = None,
    code: str = "ok",
    r5: bool = False,
    identifier: tuple[str, str] | None = None,
    request: str | None = None,
    timestamp: str = "2026-11-21T12:00:00Z",
    text: str = "",
    event: str = "sick-leave",
) -> bytes:
    """A message; `responds` makes it a response, `request` is the extension of M-34."""
    endpoint = "endpointUrl" if r5 else "endpoint"
    head: dict[str, Any] = {
        "resourceType": "MessageHeader", "id": header, "eventCoding": {"system": "http://e", "code": event},
        "source": {endpoint: source}, "destination": [{endpoint: one} for one in to],
    }  # fmt: skip
    if responds is not None:
        head["response"] = {"identifier": responds, "code": code}
    if request is not None:
        url = "http://hl7.org/fhir/StructureDefinition/messageheader-response-request"
        head["extension"] = [{"url": url, "valueCode": request}]
    whole: dict[str, Any] = {"resourceType": "Bundle", "id": bundle, "type": "message", "timestamp": timestamp}
    if identifier is not None:
        whole["identifier"] = {"system": identifier[0], "value": identifier[1]}
    entries = [{"fullUrl": f"urn:uuid:{header}", "resource": head}]
    if text:
        entries.append({"fullUrl": "urn:uuid:b", "resource": {"resourceType": "Basic", "id": text}})
    return json.dumps(whole | {"entry": entries}).encode()


def response(quoted: Any = "m1", *, source: str = A, bundle: str = "rb1", header: str = "rm1", **more: Any) -> bytes:
    return message(bundle, header, source=source, responds=quoted, **{"to": (SENDER,), **more})


def answered_with(body: bytes) -> Delivered:
    return Delivered(status=200, note="200 OK", body=body, media_type="application/fhir+json")


def refusal(text: str = "we do not take these", status: int = 422) -> Refused:
    problem = Problem(code="processing", id="refused-by-receiver", who=Who.RECEIVER, text=text)
    return Refused(note=f"{status}", status=status, problem=problem, body=b"{}", media_type="application/fhir+json")


class Script:
    """The sender of `test:` addresses: it answers each address by its lines, the last one again and again."""

    def __init__(self) -> None:
        self.sent: list[Transmission] = []
        self.under_way: dict[str, int] = defaultdict(int)
        self.most: dict[str, int] = defaultdict(int)
        self.held: list[asyncio.Future[Result]] = []  # attempts whose end the test decides
        self._lines: dict[str, deque[Line]] = defaultdict(lambda: deque([ACCEPTED]))

    def says(self, endpoint: str, *lines: Line) -> None:
        self._lines[endpoint] = deque(lines)

    def holds(self, endpoint: str) -> None:
        """Attempts there do not end before `let_go`."""

        async def hold(_sent: Transmission) -> Result:
            future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            self.held.append(future)
            return await future

        self.says(endpoint, hold)

    def let_go(self, result: Result = ACCEPTED) -> None:
        held, self.held = self.held, []
        for future in held:
            future.set_result(result)

    def accepts_all(self) -> None:
        self._lines.clear()
        self.let_go()

    def to(self, address: str) -> list[Transmission]:
        return [one for one in self.sent if one.address == address]

    async def attempt(self, transmission: Transmission) -> Result:
        address = transmission.address
        self.sent.append(transmission)
        self.under_way[address] += 1
        self.most[address] = max(self.most[address], self.under_way[address])
        try:
            lines = self._lines[address]
            line = lines.popleft() if len(lines) > 1 else lines[0]
            if isinstance(line, Delivered | Deferred | Refused):
                return line
            result = line(transmission)
            return result if isinstance(result, Delivered | Deferred | Refused) else await result
        finally:
            self.under_way[address] -= 1

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Nothing:
    """The channel's settings."""


def peer_of(address: str) -> str:
    """`test://host/path` belongs to the peer test://host."""
    scheme, _, rest = address.partition("://")
    if not rest:
        raise ValueError(f"{address} has no host")
    return f"{scheme}://{rest.partition('/')[0]}"


class Post:
    """The parts joined as `app` joins them, on one file; `now` stands still until the test moves it."""

    def __init__(
        self,
        path: Path,
        *,
        endpoints: Mapping[str, object] = ENDPOINTS,
        rules: Sequence[Rule] = (),
        defaults: Policy = DEFAULT,
        now: datetime = START,
        **here: Any,
    ) -> None:
        self.path, self.rules, self.defaults, self.now = path, RuleSet(tuple(rules)), defaults, now
        self.directory = Directory(endpoints)
        self._here_more = here
        self.script = Script()
        self.wall: datetime | None = None  # the machine's clock, where it differs
        self.dice = 0.5  # in the middle: no jitter

    async def start(self) -> Post:
        self.store = SqliteStore(self.path, now=lambda: self.now)
        self.here = Here(
            **{
                "endpoint": HERE, "base_url": "http://127.0.0.1/fhir", "ids": MessageIds(self.store.key), "min_free": 0,
                "now": lambda: self.now, "wall": lambda: self.wall or self.now, "dice": lambda: self.dice,
                "may_respond_to": lambda url: "evil" not in url,
                **self._here_more,
            }
        )  # fmt: skip
        channels = Channels()
        for name, schemes, kind in (
            ("test", ("test", "urn"), Kind.DIRECT),
            ("slow", ("slow",), Kind.STORE_AND_FORWARD),
        ):
            spec = ChannelSpec(name=name, schemes=schemes, settings=Nothing, kind=kind, peer_of=peer_of)
            channels.add(spec, sender=self.script, receiver=None)
        self.channels, self.callers, self.followers = channels, Callers(), Followers()
        self.live, self.reads = Live(self.here), SharedReads(self.store)
        self._join()
        await self.delivering.load_holds()
        self._running = asyncio.ensure_future(self.delivering.run())
        return self

    def _join(self) -> None:
        here, self.aside = self.here, Aside()
        self.free, self.wal, self.steady = 1 << 40, 0, 0.0
        self.intake = Intake(here=here, free=lambda: self.free, wal=lambda: self.wal, clock=lambda: self.steady)
        flow = join(
            here=here, store=self.store, ledger=self.store, channels=self.channels, directory=self._snapshot,
            rules=self.rules, defaults=self.defaults, intake=self.intake, aside=self.aside, callers=self.callers,
            followers=self.followers, live=self.live, reads=self.reads, meter=NoMeter(), **self._join_more(),
        )  # fmt: skip
        self.flow = flow
        self.receiving, self.accepting, self.delivering = flow.receiving, flow.accepting, flow.delivering
        self.waits = flow.waits
        self.responding, self.late, self.mailboxes = flow.responding, flow.late, flow.mailboxes
        self.sweeping, self.refusals = flow.sweeping, flow.refusals

    def _join_more(self) -> dict[str, Any]:
        return {}

    def _snapshot(self) -> Snapshot:
        return self.directory.current

    async def stop(self, seconds: float = 5) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.delivering.drain(seconds)
        await self.aside.close()
        await self.store.close()

    async def crash(self) -> None:
        """The process is gone: nothing is drained, and what was under way is never heard of."""
        self._running.cancel()
        for task in tuple(self.delivering._tasks):
            task.cancel()
        await asyncio.gather(self._running, *self.delivering._tasks, return_exceptions=True)
        await self.aside.close()
        await self.store.close()

    # -- what comes in

    async def send(
        self,
        body: bytes,
        *,
        asynchronous: bool = False,
        wait: float | None = None,
        response_url: str | None = None,
        reply_to: str | None = None,
        reference: str | None = None,
        envelope: Envelope = EMPTY,
        party: str | None = None,
        media_type: str = "application/fhir+json",
        event: bool = False,
    ) -> Answer:
        asked = Asked(
            asynchronous=asynchronous,
            wait=None if wait is None else timedelta(seconds=wait),
            response_url=response_url,
            reply_to=reply_to,
        )
        return await self.receiving(
            Arrival(
                channel="test", peer=Peer(address="127.0.0.1:9", party=party), body=body, media_type=media_type,
                at=self.now, asked=asked, envelope=envelope, reference=reference, event=event,
            )
        )  # fmt: skip

    def calls(self, body: bytes, **more: Any) -> asyncio.Task[Answer]:
        """A caller that waits while the test goes on."""
        return asyncio.ensure_future(self.send(body, **more))

    # -- what time brings

    async def rest(self) -> None:
        """Until nothing more happens by itself: all is written, nothing due, only held attempts under way."""
        quiet = 0
        async with asyncio.timeout(20):
            while quiet < 3:
                await self.store.resume_lane("")  # what was submitted before is written
                await asyncio.sleep(0.001)
                quiet = quiet + 1 if self._is_quiet() else 0

    def _is_quiet(self) -> bool:
        delivering, lanes = self.delivering, self.delivering.lanes.values()
        under_way = sum(len(lane.under_way) for lane in lanes)
        busy = delivering._asking or any(lane.ask_again(self.now) for lane in lanes) or self.store.backlog()
        free = [lane for lane in lanes if lane.ready.may_go_on()]
        # a response that nobody was told of is looked up before it takes the return path
        busy = busy or any(task.get_name() == "return a response" for task in delivering._tasks)
        return not busy and not free and under_way == sum(self.script.under_way.values()) == len(self.script.held)

    async def later(self, **passed: float) -> None:
        """Time passes, and what that brings about has happened when this returns."""
        await self.rest()
        self.now += timedelta(**passed)
        await self.rest()
        await self.sweeping.once()
        await self.rest()

    async def moves(self, endpoints: Mapping[str, object]) -> None:
        """The directory says something else now; waiting deliveries of changed names are due at once."""
        old, self.directory = self.directory.current, Directory(endpoints)
        changed = changed_names(old, self.directory.current)
        await self.delivering.follow(changed.concerns)
        await self.rest()

    # -- what is kept

    async def of(self, position: int = 1) -> tuple[Delivery, ...]:
        return await self.store.deliveries(position)

    async def one(self, position: int = 1) -> Delivery:
        (delivery,) = await self.of(position)
        return delivery

    async def mail(self, endpoint: str = SENDER) -> tuple[MailboxEntry, ...]:
        return (await self.store.read(name_key(endpoint), 0, 1000, Filter(), False, 1 << 30)).entries

    async def reports(self, endpoint: str = SENDER) -> list[dict[str, Any]]:
        """What our own reports in a mailbox say: the response code, the id of its request, and the outcome's issue."""
        found = []
        for entry in await self.mail(endpoint):
            bundle = json.loads(entry.body)
            head = bundle["entry"][0]["resource"]
            if HERE in head["source"].values():
                issue = next(e["resource"] for e in bundle["entry"] if "issue" in e["resource"])["issue"][0]
                found.append({**head["response"], "issue": issue})
        return found

    async def messages(self) -> list[Stored]:
        count = (await self.store.counts()).messages
        return [one for n in range(1, count + 1) if (one := await self.store.stored(n)) is not None]


Opened = Callable[..., Awaitable[Post]]  # what the fixture `opened` does


def policy(**more: Any) -> Policy:
    """The default policy with other parts; `sync`, `retry` and `lane` are given as mappings."""
    words = {"expects": Expects, "on_timeout": OnTimeout, "late": Late}
    parts = {}
    for name in ("sync", "retry", "lane"):
        given = {key: words[key](value) if key in words else value for key, value in more.pop(name, {}).items()}
        parts[name] = msgspec.structs.replace(getattr(DEFAULT, name), **given)
    return msgspec.structs.replace(DEFAULT, **parts, **more)

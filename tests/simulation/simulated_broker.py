"""A broker of the simulation: the real flow and core, on a simulated disk, clock and channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import msgspec
from simulated_disk import SimulatedDisk
from simulated_loop import Life, SimulatedLoop
from simulated_network import Network, NoAnswer, Reply, Request

from broker.channel import (
    Answer,
    AnswerKind,
    Arrival,
    Asked,
    ChannelSpec,
    Deferred,
    Delivered,
    Peer,
    Refused,
    Transmission,
)
from broker.core.delivery import AnswerState
from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import http_status, outcome_bytes, problem_status
from broker.core.ids import MessageIds
from broker.core.outcome import Problem, Refusal
from broker.core.policy import Policy
from broker.core.rules import RuleSet
from broker.directory import Directory, changed_names
from broker.flow.aside import Aside
from broker.flow.callers import Callers
from broker.flow.clock import SteadyClock
from broker.flow.here import Here
from broker.flow.intake import Intake
from broker.flow.joined import Flow, join
from broker.flow.live import Live
from broker.flow.meter import NoMeter
from broker.flow.notify import Followers
from broker.plugins import Channels
from broker.store import Filter, StoreError
from broker.store.memory import MemoryStore
from broker.store.shared_reads import SharedReads
from broker.store.tables import Tables
from plugins.http.classify import HttpAnswer, delivered, not_delivered

BEGIN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SCHEME = "sim"
DRAIN = 5.0  # seconds that attempts under way are given when it stops
LOOKS = 5.0  # seconds between looks at the machine's clock


@dataclass
class Nothing:
    """The channel's settings."""


def peer_of(address: str) -> str:
    return address.rpartition("/")[0]


class SimulatedBroker:
    """Started, killed and started again on the same disk."""

    flow: Flow
    store: MemoryStore

    def __init__(
        self,
        name: str,
        *,
        endpoint: str,
        directory: Mapping[str, object],
        rules: RuleSet,
        defaults: Policy,
        loop: SimulatedLoop,
        network: Network,
        dice: Random,
        tell: Callable[[str], None],
        wrong: Callable[[str], None],
    ) -> None:
        self.name, self.endpoint = name, endpoint
        self._endpoints, self._rules, self._defaults = directory, rules, defaults
        self._loop, self._network, self._dice, self._tell, self._wrong = loop, network, dice, tell, wrong
        self._directory = Directory(directory)
        self.disk = SimulatedDisk(name, dice)
        self.life: Life | None = None
        self.is_up = False
        self.ahead = 0.0  # seconds, of the machine's clock
        self.deaths = 0
        self.down = 0.0  # seconds that it stays down when it dies next
        self._doom: tuple[int, int, float] | None = None
        self._past: list[object] = []  # of lives that ended: nothing of it is cleaned up while the simulation runs
        network.hosts[name] = self

    # -- lives

    def start(self) -> None:
        self.life = Life(self.name, self.kill)
        self._past.append(self._loop.begin(self.life, self._live()))

    async def _live(self) -> None:
        self._join()
        await self.flow.delivering.load_holds()
        self.is_up = True
        flow = self.flow
        self._running = [
            asyncio.ensure_future(work) for work in (flow.delivering.run(), flow.sweeping.run(), self._look())
        ]

    async def _look(self) -> None:
        while True:
            self.clock.look()
            self._intake.look()
            await asyncio.sleep(LOOKS)

    def kill(self) -> None:
        """As kill -9 and power loss: memory is gone, and what was not synced."""
        if self.life is None or not self.life.alive:
            return
        self._tell(f"{self.name} is killed")
        self.life.alive = self.is_up = False
        self.deaths += 1
        self._past.append((self.flow, self.store, self._running) if hasattr(self, "_running") else None)
        self._network.killed(self.name)
        self._loop.call_later(self.down, self._start_again, context=self._network._nobody)

    def stops(self, down: float) -> None:
        """In order, as the daemon does: what is under way is finished, who waits is told."""
        if self.is_up and self.life is not None:
            self._tell(f"{self.name} stops")
            self.down = down
            self._loop.begin(self.life, self._stop())

    async def _stop(self) -> None:
        self._intake.draining = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.flow.delivering.drain(DRAIN)
        self._callers.tell_kept()
        await self.store.close()
        self.kill()

    def moves(self, endpoint: str, address: str) -> None:
        """Its directory leads a name elsewhere from now on."""
        self._endpoints = {**self._endpoints, endpoint: address}
        old, self._directory = self._directory.current, Directory(self._endpoints)
        if self.is_up and self.life is not None:
            concerns = changed_names(old, self._directory.current).concerns
            self._loop.begin(self.life, self._follow(concerns))

    async def _follow(self, concerns: Callable[[str], bool]) -> None:
        with suppress(StoreError):  # then it is found at the next attempt
            await self.flow.delivering.follow(concerns)

    def dies_in(self, steps: int, down: float) -> None:
        """At any await: so many callbacks of its from now."""
        self.down = down
        if self.life is not None and self.life.alive:
            self.life.fuse = steps

    def dies_taking(self, number: int, steps: int, down: float) -> None:
        """So many callbacks after so many requests have come in."""
        self._doom = (number, steps, down)

    def dies_never(self) -> None:
        self._doom = None
        if self.life is not None:
            self.life.fuse = None

    def _start_again(self) -> None:
        self._tell(f"{self.name} starts again")
        self.start()

    def wall(self) -> float:
        return BEGIN.timestamp() + self._loop.time() + self.ahead

    def _join(self) -> None:
        self.clock = SteadyClock(wall=self.wall, steady=self._loop.time)
        self.store = MemoryStore(self.disk, now=self.clock)
        self.here = Here(
            endpoint=self.endpoint, base_url=f"http://{self.name}/fhir", ids=MessageIds(self.store.key), min_free=1,
            now=self.clock, wall=self.clock.wall, dice=self._dice.random, hops=8,
            new_id=lambda: str(UUID(int=self._dice.getrandbits(128), version=4)),
            may_respond_to=lambda url: url.startswith(f"{SCHEME}:"),
        )  # fmt: skip
        channels = Channels()
        spec = ChannelSpec(name=SCHEME, schemes=(SCHEME,), settings=Nothing, peer_of=peer_of)
        channels.add(spec, sender=Wire(self), receiver=None)
        self._callers = Callers()
        self._intake = Intake(here=self.here, free=self.store.free, clock=self._loop.time)
        self.flow = join(
            here=self.here, store=self.store, ledger=self.store, channels=channels,
            directory=lambda: self._directory.current, rules=self._rules, defaults=self._defaults,
            intake=self._intake, aside=Aside(), callers=self._callers, followers=Followers(), live=Live(self.here),
            reads=SharedReads(self.store), meter=NoMeter(),
        )  # fmt: skip

    @property
    def tables(self) -> Tables:
        return self.store.tables

    def is_at_rest(self) -> bool:
        """Whether nothing waits and no answer is looked for."""
        if not self.is_up or self.store.backlog() or self.tables.queues:
            return False
        rows = [row for some in self.tables.rows.values() for row in some.values()]
        return all(row.delivery.answer is not AnswerState.OPEN for row in rows)

    async def mail(self) -> list[tuple[str, list[bytes]]]:
        """All that stands in mailboxes, by the name of their owner."""
        found = []
        for key, box in self.tables.boxes.items():
            page = await self.store.read(key, 0, 1000, Filter(), False, 1 << 30)
            found.append((box.name, [entry.body for entry in page.entries]))
        return found

    # -- the way in

    async def serve(self, request: Request, peer: str) -> Reply:
        if self._doom is not None:
            number, steps, down = self._doom
            self._doom = (number - 1, steps, down) if number > 1 else None
            if self._doom is None:
                self.dies_in(steps, down)
        asked = Asked(
            asynchronous=request.asynchronous,
            wait=None if request.wait is None else timedelta(seconds=request.wait),
            response_url=request.response_url,
        )
        arrival = Arrival(
            channel=SCHEME, peer=Peer(address=peer), body=request.body, media_type="application/fhir+json",
            at=self.clock(), envelope=request.envelope, asked=asked,
        )  # fmt: skip
        try:
            answer = await self.flow.receiving(arrival)
        except Refusal as refusal:
            after = None if refusal.retry_after is None else str(max(1, round(refusal.retry_after)))
            return Reply(status=http_status(refusal), body=_outcome(refusal.problems), retry_after=after)
        return said(answer)

    # -- the way out

    async def attempt(self, sent: Transmission) -> Delivered | Deferred | Refused:
        left = sent.envelope.timeleft
        request = Request(
            body=sent.body,
            # absent = nobody waits, as on HTTP
            envelope=sent.envelope if sent.caller_waits else msgspec.structs.replace(sent.envelope, timeleft=None),
            asynchronous=not sent.caller_waits,
            wait=left // 1000 if sent.listens_on and left is not None else None,
        )
        began = self._loop.time()
        try:
            reply = await self._network.exchange(
                self.name, sent.address, request, connect=sent.connect.total_seconds(),
                answer=sent.answer.total_seconds(),
            )  # fmt: skip
        except NoAnswer as failure:
            return Deferred(note=str(failure), of_peer=True, left=failure.left)
        is_broker = self._network.hosts[sent.address.split("/")[2]].life is not None
        if is_broker and request.wait is not None and left is not None and self._network.is_late(began, left / 1000):
            self._wrong(f"{sent.address} was asked by {self.name} to answer in {left} ms, and took longer")
        if 200 <= reply.status < 300:
            return delivered(reply.status, reply.media_type, reply.body)
        answer = HttpAnswer(
            status=reply.status, content_type=reply.media_type, retry_after=reply.retry_after, body=reply.body,
            now=self.clock(),
        )  # fmt: skip
        return not_delivered(answer, sent.address)


class Wire:
    """The sender of the simulation's channel."""

    def __init__(self, broker: SimulatedBroker) -> None:
        self._broker = broker

    async def attempt(self, transmission: Transmission) -> Delivered | Deferred | Refused:
        return await self._broker.attempt(transmission)

    async def stop(self) -> None:
        """Never: brokers of the simulation are killed."""


def said(answer: Answer) -> Reply:
    """As the http channel says it."""
    match answer.kind:
        case AnswerKind.RESPONSE:
            return Reply(status=200, body=answer.body or b"")
        case AnswerKind.DONE:
            return Reply(status=204)
        case AnswerKind.WITHDRAWN:
            return Reply(status=504)
        case AnswerKind.REFUSED if answer.body and answer.status is not None and answer.status >= 400:
            return Reply(status=answer.status, body=answer.body)
        case AnswerKind.REFUSED:
            problem = answer.problem or Problem(code="processing", id="refused-by-receiver", text="")
            return Reply(status=answer.status or problem_status(problem), body=_outcome((problem,)))
        case _:
            return Reply(status=202)


def _outcome(problems: tuple[Problem, ...]) -> bytes:
    return outcome_bytes(problems, format=Format.JSON, release=Release.R4)

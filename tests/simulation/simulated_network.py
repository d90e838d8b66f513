"""A network that loses, doubles and delays, between hosts that may be gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from simulated_loop import Life, SimulatedLoop

from broker.core.envelope import EMPTY, Envelope

JSON = "application/fhir+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    body: bytes
    envelope: Envelope = EMPTY
    asynchronous: bool = False
    wait: float | None = None  # seconds
    response_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    body: bytes = b""
    media_type: str = JSON
    retry_after: str | None = None


class NoAnswer(Exception):
    def __init__(self, why: str, *, left: bool) -> None:
        super().__init__(why)
        self.left = left


class Host(Protocol):
    name: str
    life: Life | None  # None: a party, that no fault of the simulation kills

    @property
    def is_up(self) -> bool: ...

    async def serve(self, request: Request, peer: str) -> Reply: ...


@dataclass(slots=True)
class Weather:
    """How often what goes wrong."""

    lost: float = 0.0
    reply_lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    latency: float = 0.02  # seconds, at most, of an ordinary packet


CALM = Weather()


@dataclass(slots=True, eq=False)
class Exchange:
    source: str
    host: Host
    answer: asyncio.Future[Reply] | None  # None: of a copy that the network made
    serving: asyncio.Task[Reply] | None = None


@dataclass(slots=True)
class Network:
    loop: SimulatedLoop
    dice: Random
    weather: Weather
    tell: Callable[[str], None]  # the history
    sends: Callable[[str, str, Request], None]  # told of every request that sets out
    hosts: dict[str, Host] = field(default_factory=dict)
    cut: set[frozenset[str]] = field(default_factory=set)
    copies: Counter[tuple[str, bytes]] = field(default_factory=Counter)  # by host and body: why it may come once more
    open: int = 0
    slowest: float = CALM.latency
    prompt: bool = True  # nothing in this world makes an answer late but the parties
    _exchanges: dict[Exchange, None] = field(default_factory=dict)
    _nobody: Context = field(default_factory=Context)  # packets outlive who sent them

    def name_of(self, body: bytes) -> str:
        """Of a message, for the history: its Bundle.id, which stands in front of its entries."""
        return body[: body.find(b'"entry"')].partition(b'"id":"')[2].partition(b'"')[0].decode()

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.cut

    def is_late(self, began: float, wait: float) -> bool:
        """Whether an answer that was to come within that time has come later, beyond what packets and disks take."""
        return self.prompt and self.loop.time() - began > wait + 4 * self.slowest + 0.2

    def _latency(self) -> float:
        if self.weather.late and self.dice.random() < self.weather.late:
            return self.dice.uniform(1.0, 25.0)
        return self.dice.uniform(0.0005, self.weather.latency)

    async def exchange(self, source: str, address: str, request: Request, *, connect: float, answer: float) -> Reply:
        """Raises NoAnswer; its `left` says whether the request may have arrived."""
        host = self.hosts[address.split("/")[2]]
        self.sends(source, host.name, request)
        if self.is_cut(source, host.name):
            await asyncio.sleep(connect)
            raise NoAnswer("no connection", left=False)
        await asyncio.sleep(self.dice.uniform(0.0005, self.weather.latency))
        if not host.is_up:
            raise NoAnswer("connection refused", left=False)
        name = self.name_of(request.body)
        self.tell(f"{source} > {host.name}: {name}{'' if request.asynchronous else ', and waits'}")
        exchange = Exchange(source, host, self.loop.create_future())
        self._exchanges[exchange] = None
        self._send(exchange, request)
        if self.dice.random() < self.weather.doubled:
            self.copies[host.name, request.body] += 1
            self.tell(f"the network doubles {source} > {host.name}")
            # by somebody between who asks again, and does not stay for the answer
            self._send(Exchange(source, host, None), replace(request, asynchronous=True, wait=None))
        assert exchange.answer is not None
        try:
            async with asyncio.timeout(answer):
                reply = await exchange.answer
        except TimeoutError:
            self.tell(f"{source} < {host.name}: no answer to {name}")
            self.copies[host.name, request.body] += 1
            raise NoAnswer("no answer in time", left=True) from None
        except NoAnswer as failure:
            self.tell(f"{source} < {host.name}: {failure}, {name}")
            self.copies[host.name, request.body] += 1
            raise
        finally:
            self._exchanges.pop(exchange, None)
            self._hang_up(exchange)
        self.tell(f"{source} < {host.name}: {reply.status} to {name}")
        if not 200 <= reply.status < 300:
            self.copies[host.name, request.body] += 1
        return reply

    def _send(self, exchange: Exchange, request: Request) -> None:
        if self.dice.random() < self.weather.lost:
            self.tell(f"lost: {exchange.source} > {exchange.host.name}")
            return
        self.open += 1
        self.loop.call_later(self._latency(), self._arrives, exchange, request, context=self._nobody)

    def _arrives(self, exchange: Exchange, request: Request) -> None:
        self.open -= 1
        host = exchange.host
        if self.is_cut(exchange.source, host.name):
            return
        if not host.is_up:
            self._fails(exchange, "connection reset")
            return
        exchange.serving = self.loop.begin(host.life, host.serve(request, exchange.source))
        exchange.serving.add_done_callback(lambda done: self._served(exchange, done), context=self._nobody)
        if exchange.answer is not None and exchange not in self._exchanges:
            self._hang_up(exchange)  # it was late, and who asked has gone

    def _served(self, exchange: Exchange, done: asyncio.Task[Reply]) -> None:
        if exchange.answer is None or exchange.answer.done() or done.cancelled():
            if not done.cancelled():
                done.exception()
            return
        error = done.exception()
        if error is not None:
            self.loop.failures.append(f"{exchange.host.name} failed to serve: {error!r}")
            self._fails(exchange, "a failure")
        elif self.dice.random() < self.weather.reply_lost or self.is_cut(exchange.source, exchange.host.name):
            self.tell(f"lost: the answer {exchange.host.name} > {exchange.source}")
        else:
            reply = done.result()
            self.loop.call_later(self._latency(), _answer, exchange.answer, reply, context=self._nobody)

    def _fails(self, exchange: Exchange, why: str) -> None:
        if exchange.answer is not None and not exchange.answer.done():
            exchange.answer.set_exception(NoAnswer(why, left=True))

    def _hang_up(self, exchange: Exchange) -> None:
        """The one who asked is gone: who serves it hears of that, if the network lets it."""
        serving = exchange.serving
        if serving is not None and not serving.done() and not self.is_cut(exchange.source, exchange.host.name):
            self.loop.call_later(self._latency(), serving.cancel, context=self._nobody)

    def killed(self, name: str) -> None:
        """All connections of a host break."""
        for exchange in tuple(self._exchanges):
            if exchange.host.name == name:
                self._fails(exchange, "connection reset")
            elif exchange.source == name:
                del self._exchanges[exchange]
                self._hang_up(exchange)


def _answer(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():
        future.set_result(reply)

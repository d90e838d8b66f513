"""One seed, one world: a network of brokers and parties, what is sent, what goes wrong, and what is left of it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import msgspec
import structlog
from simulated_broker import BEGIN, SimulatedBroker
from simulated_ledger import Ledger, Sent, check
from simulated_loop import SimulatedLoop
from simulated_network import CALM, Network, Request, Weather
from simulated_party import PROMPT, Manner, Nobody, Party, World, message

from broker.core.policy import LanePolicy, Match, OnTimeout, Order, Policy, Retry, Rule, Sync
from broker.core.rules import RuleSet
from broker.flow import deliver, sweep

HEALED = 50.0  # seconds: from then on nothing goes wrong any more
LONGEST = 1200.0  # seconds until everything must have ended
LOOKS = 5.0  # seconds between looks whether it has
LOOP, NOWHERE = (
    "urn:oid:9.1",
    "urn:oid:9.2",
)  # a name that the directories lead in a circle; one known only to the first
WAIT = 4.0  # seconds that a caller is kept who does not say how long
SKEW = 25.0  # seconds that a clock is set wrong, at most

MANNERS = (
    *[Manner.ANSWERS] * 4, *[Manner.ANSWERS_LATER] * 4, Manner.ANSWERS_LATE, Manner.TAKES, Manner.DONE, Manner.REFUSES,
    Manner.ASKS_AGAIN, Manner.SLOW, Manner.SLOW, Manner.FLAPS, Manner.FLAPS, Manner.GONE,
)  # fmt: skip


@dataclass(slots=True)
class Result:
    seed: int
    wrongs: list[str]
    history: list[str] = field(default_factory=list)
    messages: int = 0
    accepted: int = 0
    deaths: int = 0
    time: float = 0.0  # of the simulation


CAUGHT: list[str] = []  # exceptions that the flow has caught and logged: bugs, whatever they cost


def _catch(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if event.get("exc_info"):
        CAUGHT.append(f"{event['event']}: {traceback.format_exc()}")
    raise structlog.DropEvent


def prepare() -> None:
    """Logs nothing but bugs; and looks at the schedule seldom: that is for what was missed, and costs real time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40), processors=[_catch])
    deliver.TICK = 20.0
    sweep.EVERY = 3.0


class Simulation:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dice = Random(f"world {seed}")
        self.loop = SimulatedLoop(Random(f"loop {seed}"))
        self.history: list[tuple[float, str]] = []
        self.ledger = Ledger(self.tell, self.loop.time)
        self.network = Network(self.loop, Random(f"network {seed}"), Weather(), self.tell, self._sends)
        self.world = World(self.loop, self.network, self.ledger, Random(f"parties {seed}"), self._begin, HEALED, WAIT)
        self.policy = self._policy()
        self.links: dict[int, int] = {}
        self._build()
        self._plan_messages()
        self._plan_faults()

    def tell(self, text: str) -> None:
        self.history.append((self.loop.time(), text))

    def _begin(self, work: object) -> object:
        async def counted() -> None:
            self.world.busy += 1
            try:
                await work  # type: ignore[misc]
            finally:
                self.world.busy -= 1

        return self.loop.begin(None, counted())

    # -- the network

    def _policy(self) -> Policy:
        dice = self.dice
        return Policy(
            sync=Sync(wait=timedelta(seconds=WAIT), longest=timedelta(seconds=12)),
            answer_within=timedelta(seconds=dice.choice((45, 90, 180))),
            # longer than anything is wrong: the report of a failure has nobody to fall back on
            retry=Retry(first=timedelta(seconds=1), max=timedelta(seconds=8), give_up=timedelta(seconds=150)),
            unread=timedelta(days=5),
            lane=LanePolicy(
                concurrent=dice.choice((1, 2, 4)), connect=timedelta(seconds=2), answer=timedelta(seconds=8),
                open_after=dice.choice((2, 5)), probe=timedelta(seconds=5),
            ),
        )  # fmt: skip

    def _build(self) -> None:
        dice = self.dice
        count = dice.choice((2, 2, 2, 3, 3, 3, 4, 5, 6))
        shape = dice.choice(("chain", "star", "tree"))
        for n in range(1, count):
            self.links[n] = {"chain": n - 1, "star": 0, "tree": dice.randrange(n)}[shape]
        homes = [dice.randrange(count) for _ in range(dice.randint(2, 4))]
        if dice.random() < 0.5:
            homes[1] = homes[0]  # two behind one gateway
        self.sender_home = dice.choice([n for n in range(count) if n != homes[0]])
        knows_sources = dice.random() < 0.7  # else an answer finds back by the brokers that its request passed
        manners = [dice.choice(MANNERS) for _ in homes]
        parties = [(f"p{n}", f"urn:oid:2.{home}.{n}", home, manner, dice.random() < 0.15)
                   for n, (home, manner) in enumerate(zip(homes, manners, strict=True))]  # fmt: skip
        parties.append(("s", f"urn:oid:2.{self.sender_home}.99", self.sender_home, Manner.ANSWERS, dice.random() < 0.3))
        rules = RuleSet((
            Rule(name="in order", match=Match(event=("ordered",)),
                 policy=msgspec.structs.replace(self.policy, order=Order.SOURCE)),
            Rule(name="soon given up", match=Match(event=("urgent",), response=False),
                 policy=msgspec.structs.replace(
                    self.policy, retry=msgspec.structs.replace(self.policy.retry, give_up=timedelta(seconds=20)))),
            Rule(name="now or never", match=Match(event=("now",), response=False),
                 policy=msgspec.structs.replace(
                    self.policy, sync=msgspec.structs.replace(self.policy.sync, on_timeout=OnTimeout.REFUSE))),
        ))  # fmt: skip
        self.brokers = [
            SimulatedBroker(
                f"b{n}", endpoint=f"urn:oid:1.0.{n}", directory=self._directory(n, count, parties, knows_sources),
                rules=rules, defaults=self.policy, loop=self.loop, network=self.network,
                dice=Random(f"broker {self.seed} {n}"), tell=self.tell, wrong=self.ledger.wrong,
            )
            for n in range(count)
        ]  # fmt: skip
        self.parties = [
            Party(name, endpoint=endpoint, home=f"b{home}", address="mailbox:" if boxed else f"sim://{name}/in",
                  manner=manner, world=self.world)
            for name, endpoint, home, manner, boxed in parties
        ]  # fmt: skip
        self.sender = self.parties[-1]
        self.tell(f"{count} brokers in a {shape}: " + ", ".join(f"b{a}-b{b}" for a, b in self.links.items()))
        for party in self.parties:
            self.tell(f"{party.endpoint} at {party.home} ({party.address}) {party.manner.value}")

    def _directory(
        self, here: int, count: int, parties: list[tuple[str, str, int, Manner, bool]], knows_sources: bool
    ) -> dict[str, object]:
        known: dict[str, object] = {}
        apart = self.dice.random() < 0.4
        for name, endpoint, home, _, boxed in parties:
            if home == here:
                known[endpoint] = "mailbox:" if boxed else f"sim://{name}/in"
            elif name != "s" or knows_sources:
                # a way in of its own, or the one of all: then what goes to several leaves together
                known[endpoint] = f"sim://b{self._next(here, home)}/{name if apart else 'in'}"
        for other in range(count):
            if other != here:
                known[f"urn:oid:1.0.{other}"] = f"sim://b{self._next(here, other)}/in"
        # a circle of two: the sender's broker, and its neighbour
        neighbour = self._next(self.sender_home, 0 if self.sender_home else 1)
        if here == self.sender_home:
            known[LOOP] = known[NOWHERE] = f"sim://b{neighbour}/in"
        elif here == neighbour:
            known[LOOP] = f"sim://b{self.sender_home}/in"
        return known

    def _next(self, here: int, there: int) -> int:
        """The neighbour on the way through the tree."""
        way = there
        path = {way}
        while way in self.links:  # up from there
            if self.links[way] == here:
                return way
            way = self.links[way]
            path.add(way)
        return self.links[here]

    # -- what is sent

    def _plan_messages(self) -> None:
        dice, receivers = self.dice, self.parties[:-1]
        for n in range(dice.randint(2, 5)):
            to = tuple(one.endpoint for one in dice.sample(receivers, min(dice.choice((1, 1, 1, 2)), len(receivers))))
            if dice.random() < 0.12:
                to = (LOOP,)
            elif dice.random() < 0.05:
                to = (NOWHERE,)
            sent = self._sent(f"m{n}", to, asks=dice.random() < 0.55)
            self._begin(self._sends_at(dice.uniform(0, HEALED * 0.8), [sent]))
            if dice.random() < 0.25:
                self._begin(self._copies_at(dice.uniform(HEALED * 0.5, HEALED * 1.1), sent, receivers))
        self.is_ordered = dice.random() < 0.4
        if self.is_ordered:
            to = (dice.choice(receivers).endpoint,)
            line = [self._sent(f"o{n}", to, asks=False, ordered=True) for n in range(dice.randint(3, 5))]
            self._begin(self._sends_at(dice.uniform(0, HEALED * 0.6), line))

    def _sent(self, id: str, to: tuple[str, ...], *, asks: bool, ordered: bool = False) -> Sent:
        dice, source = self.dice, self.sender.endpoint
        expires = dice.uniform(1, 60) if dice.random() < 0.15 and not ordered else None
        asynchronous = dice.random() < 0.5
        event = "ordered" if ordered else dice.choice(("e", "e", "e", "urgent", "now"))
        sent = Sent(
            home=self.sender.home, id=id, header=f"h{id}", source=source, destinations=to, asks=asks,
            asynchronous=asynchronous, body=message(id, source=source, to=to, event=event, asks=asks),
            wait=dice.choice((None, 3.0, 10.0)) if not asynchronous else None, ordered=ordered,
            expiry=None if expires is None else BEGIN + timedelta(seconds=expires), expiry_at=expires,
        )  # fmt: skip
        self.ledger.enter(sent)
        return sent

    async def _sends_at(self, at: float, line: list[Sent]) -> None:
        await asyncio.sleep(at)
        for sent in line:
            await self.sender.send(sent)

    async def _copies_at(self, at: float, sent: Sent, receivers: list[Party]) -> None:
        await asyncio.sleep(at)
        if sent.accepted is not None:
            self.tell(f"a copy of {sent.id}")
            sent.copies += 1
            await self.sender.send(sent)

    def _sends(self, source: str, host: str, request: Request) -> None:
        """Promise 5, of expiry: what is worth nothing any more is not sent."""
        if request.envelope.expirytime is not None and source[0] == "b":
            over = (BEGIN + timedelta(seconds=self.loop.time()) - request.envelope.expirytime).total_seconds()
            if over > self.skew + 0.01:
                self.ledger.wrong(f"{source} sends to {host} what expired {over:.1f} s ago")

    # -- what goes wrong

    def _plan_faults(self) -> None:
        dice, at = self.dice, self._at
        self.skew = 0.0
        self.is_calm = dice.random() < 0.1  # nothing is wrong but the parties themselves
        if self.is_calm:
            at(HEALED, self._heal)
            return
        severity = dice.choice((0.0, 0.3, 1.0))
        if dice.random() < 0.7:
            self.network.weather = Weather(
                lost=dice.uniform(0, 0.15) * severity, reply_lost=dice.uniform(0, 0.2) * severity,
                doubled=dice.uniform(0, 0.15) * severity, late=dice.uniform(0, 0.1) * severity,
                latency=dice.choice((0.02, 0.02, 0.5)),
            )  # fmt: skip
            self.network.slowest = self.network.weather.latency
            self.network.prompt = not self.network.weather.late
        for _ in range(dice.choice((0, 1, 1, 2, 3))):
            broker, fuse, down = dice.choice(self.brokers), dice.randrange(60), dice.choice((0.5, 3, 15))
            if dice.random() < 0.5:  # in the midst of taking something in
                broker.dies_taking(dice.randint(1, 6), fuse, down)
            else:
                at(dice.uniform(0, HEALED), partial(broker.dies_in, fuse, down))
        if dice.random() < 0.2:
            at(dice.uniform(0, HEALED), partial(dice.choice(self.brokers).stops, dice.choice((0.5, 5))))
        if dice.random() < 0.2:
            at(dice.uniform(0, HEALED), partial(self._moves, dice.choice(self.parties[:-1])))
        for _ in range(dice.choice((0, 0, 1, 2))):
            self._for_a_while(self._cut, *sorted(dice.sample([*self.network.hosts], 2)))
        for _ in range(dice.choice((0, 0, 0, 1))):
            self._for_a_while(self._disk, dice.choice(self.brokers), dice.choice(("is_full", "is_short", "is_slow")))
        if dice.random() < 0.15:
            self.skew = SKEW
            self.network.prompt = False
            at(dice.uniform(0, HEALED), partial(self._clock, dice.choice(self.brokers), dice.uniform(-SKEW, SKEW)))
        at(HEALED, self._heal)

    def _at(self, time: float, what: Callable[[], None]) -> None:
        self.loop.call_at(time, what, context=self.network._nobody)

    def _for_a_while(self, what: Callable[..., None], *which: object) -> None:
        begin = self.dice.uniform(0, HEALED - 1)
        self._at(begin, partial(what, *which, True))
        self._at(min(begin + self.dice.uniform(0.5, 25), HEALED), partial(what, *which, False))

    def _cut(self, one: str, other: str, is_cut: bool) -> None:
        self.tell(f"the cable between {one} and {other} is {'cut' if is_cut else 'mended'}")
        (self.network.cut.add if is_cut else self.network.cut.discard)(frozenset((one, other)))

    def _disk(self, broker: SimulatedBroker, how: str, is_so: bool) -> None:
        self.network.prompt = False
        self.tell(f"the disk of {broker.name} {how}: {is_so}")
        setattr(broker.disk, how, is_so)

    def _clock(self, broker: SimulatedBroker, ahead: float) -> None:
        self.tell(f"the clock of {broker.name} is set {ahead:+.1f} s")
        broker.ahead = ahead

    def _moves(self, party: Party) -> None:
        """To another address; its broker hears of that at once."""
        if party.address.startswith("sim:"):
            self.tell(f"{party.endpoint} moves")
            self.network.hosts[party.name], self.network.hosts[f"{party.name}new"] = Nobody(party.name), party
            party.address = f"sim://{party.name}new/in"
            next(one for one in self.brokers if one.name == party.home).moves(party.endpoint, party.address)

    def _heal(self) -> None:
        self.tell("all is healed")
        self.network.weather, self.network.cut = CALM, set()
        for broker in self.brokers:
            broker.ahead = 0.0
            broker.disk.is_full = broker.disk.is_short = broker.disk.is_slow = False
            broker.dies_never()

    # -- what is left

    def run(self) -> Result:
        for broker in self.brokers:
            broker.start()
        self.loop.run(HEALED + 1)
        while self.loop.time() < LONGEST and not self._is_at_rest():
            self.loop.run(self.loop.time() + LOOKS)
        reading = self.loop.begin(None, self._read_mail())
        self.loop.run(self.loop.time() + 1)
        assert reading.done()
        wrongs = check(self.ledger, self.brokers, may_repeat=self._may_repeat)
        wrongs += self.loop.failures + CAUGHT + (self._kept_waiting() if self.is_calm else [])
        CAUGHT.clear()
        self.loop.end()
        return Result(
            self.seed, wrongs, [f"{at:9.3f}  {text}" for at, text in self.history],
            messages=len(self.ledger.messages), deaths=sum(broker.deaths for broker in self.brokers),
            accepted=sum(sent.accepted is not None for sent in self.ledger.messages.values()), time=self.loop.time(),
        )  # fmt: skip

    def _kept_waiting(self) -> list[str]:
        """Promise 9: where only parties are slow or gone, those that are not have theirs at once."""
        healthy = {party.endpoint for party in self.parties if party.manner in PROMPT and party.address != "mailbox:"}
        if self.policy.lane.concurrent < 4:
            return []
        return [
            f"promise 9: {sent.id} came to {to} {times[0] - sent.accepted:.1f} s after it was accepted"
            for sent in self.ledger.messages.values()
            for to, times in sent.arrived.items()
            if to in healthy and not sent.ordered and sent.accepted is not None and times[0] - sent.accepted > 2
        ]

    def _is_at_rest(self) -> bool:
        return not self.world.busy and not self.network.open and all(broker.is_at_rest() for broker in self.brokers)

    async def _read_mail(self) -> None:
        by_name = {party.endpoint: party for party in self.parties}
        for broker in self.brokers:
            for name, bodies in await broker.mail():
                if name in by_name:
                    await by_name[name].read_mail(bodies)

    def _may_repeat(self, sent: Sent, to: str) -> int:
        """How often a receiver may have had a message again: crashes, lost ends of attempts, wanted copies."""
        host = next((party.name for party in self.parties if party.endpoint == to), "")
        copies, home = self.network.copies, sent.home
        own = copies[host, sent.body] + copies[home, sent.body] + sent.copies
        if any(one.code == "transient-error" and one.responds == sent.id for one in self.ledger.messages.values()):
            own += sum(copies[broker.name, sent.body] for broker in self.brokers)  # each hop may send it again (M-32)
        if sent.responds is not None:  # who asks again is told again
            asked = self.ledger.messages[sent.responds]
            own += copies[asked.home, asked.body] + asked.copies
        return own + sum(broker.deaths + broker.disk.failures for broker in self.brokers)


def simulate(seed: int) -> Result:
    return Simulation(seed).run()

"""The parties: they send, send again until they are answered, receive in their own ways, and write all of it down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

import orjson
from simulated_ledger import Heard, Ledger, Sent
from simulated_loop import Life, SimulatedLoop
from simulated_network import Network, NoAnswer, Reply, Request

from broker.core.envelope import Envelope
from broker.core.fhir.outcomes import ERROR

PATIENCE = 12.0  # seconds beyond its wait that a client keeps a connection
OUTCOME = orjson.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]})


@dataclass(frozen=True, slots=True)
class Nobody:
    """Who answers at an address where somebody was."""

    name: str
    life: Life | None = None
    is_up: bool = False

    async def serve(self, request: Request, peer: str) -> Reply:
        raise AssertionError("nobody is there")


_SILENCE = {"url": "http://hl7.org/fhir/StructureDefinition/messageheader-response-request", "valueCode": "never"}


class Manner(Enum):
    """How a party receives."""

    ANSWERS = "answers in the exchange"
    ANSWERS_LATER = "takes it, and answers by itself"
    ANSWERS_LATE = "answers when its caller has long gone"
    TAKES = "takes it, and never answers"
    DONE = "has nothing to say"
    REFUSES = "refuses it"
    ASKS_AGAIN = "asks for it to be sent again"
    SLOW = "is slow"
    FLAPS = "is there and is not"
    GONE = "is not there until all is healed"


PROMPT = {Manner.ANSWERS, Manner.ANSWERS_LATER, Manner.ANSWERS_LATE}


def message(
    id: str, *, source: str, to: tuple[str, ...], event: str, asks: bool, responds: str | None = None, code: str = "ok"
) -> bytes:
    head: dict[str, object] = {
        "resourceType": "MessageHeader", "id": f"h{id}", "eventCoding": {"system": "http://e", "code": event},
        "source": {"endpoint": source}, "destination": [{"endpoint": one} for one in to],
    }  # fmt: skip
    if responds is not None:
        head["response"] = {"identifier": responds, "code": code}
    if not asks and responds is None:
        head["extension"] = [_SILENCE]
    entry = [{"fullUrl": f"urn:uuid:h{id}", "resource": head}]
    return orjson.dumps({"resourceType": "Bundle", "id": id, "type": "message", "entry": entry})


@dataclass(slots=True)
class World:
    """What parties share."""

    loop: SimulatedLoop
    network: Network
    ledger: Ledger
    dice: Random
    begin: Callable[[object], object]
    healed_at: float
    longest: float  # seconds that a caller waits who does not say
    busy: int = 0  # exchanges and answers that parties have still to make

    def is_healed(self) -> bool:
        return self.loop.time() >= self.healed_at


class Party:
    life: Life | None = None

    def __init__(self, name: str, *, endpoint: str, home: str, address: str, manner: Manner, world: World) -> None:
        self.name, self.endpoint, self.home, self.address, self.manner = name, endpoint, home, address, manner
        self._world = world
        self._answered: dict[str, bytes] = {}  # by id of the request
        world.network.hosts[name] = self

    @property
    def is_up(self) -> bool:
        """Also at an address that it has moved to."""
        if self._world.is_healed():
            return True
        if self.manner is Manner.GONE:
            return False
        return self.manner is not Manner.FLAPS or int(self._world.loop.time() / 7) % 2 == 0

    # -- receiving

    async def serve(self, request: Request, peer: str) -> Reply:
        bundle = orjson.loads(request.body)
        head = bundle["entry"][0]["resource"]
        if "response" in head:
            return self._hears(request.body, bundle, head)
        sent = self._world.ledger.arrives(bundle["id"], request.body, self.endpoint)
        if sent is None:
            return Reply(status=422, body=OUTCOME)
        if self._world.is_healed() and self.manner in (Manner.FLAPS, Manner.GONE, Manner.SLOW):
            return await self._answers(sent, 0.5)
        return await self._receives(sent, request)

    async def _receives(self, sent: Sent, request: Request) -> Reply:
        dice, manner = self._world.dice, self.manner
        if manner is Manner.SLOW:
            await asyncio.sleep(dice.uniform(0.0, 12.0))
            return await self._answers(sent, dice.uniform(0, 5))
        if manner is Manner.REFUSES:
            del sent.arrived[self.endpoint]  # it had no effect
            return Reply(status=422, body=OUTCOME)
        if manner is Manner.DONE:
            sent.silent.add(self.endpoint)
            return Reply(status=204)
        if manner is Manner.TAKES:
            return Reply(status=202)
        if manner is Manner.ANSWERS and sent.asks:
            return Reply(status=200, body=self._response(sent).body)
        if manner is Manner.ASKS_AGAIN and sent.asks and len(sent.arrived[self.endpoint]) == 1:
            return Reply(status=200, body=self._response(sent, "transient-error").body)
        return await self._answers(sent, dice.uniform(15, 40) if manner is Manner.ANSWERS_LATE else dice.uniform(0, 3))

    async def _answers(self, sent: Sent, after: float) -> Reply:
        """Takes it; the response comes as a message of its own."""
        if sent.asks:
            response = self._response(sent)
            if response.accepted is None:
                self._world.begin(self._send_later(response, after))
        return Reply(status=202)

    def _response(self, sent: Sent, code: str = "ok") -> Sent:
        """The same bytes whenever the same message is answered."""
        id = f"r{sent.id}-{self.name}" + ("" if code == "ok" else "-again")
        known = self._world.ledger.messages.get(id)
        if known is not None:
            return known
        to = (sent.source,)
        body = message(
            id, source=self.endpoint, to=to, event="e", asks=False, responds=sent.header, code=code
        )  # fmt: skip
        response = Sent(
            home=self.home, id=id, header=f"h{id}", body=body, source=self.endpoint, destinations=to, asks=False,
            asynchronous=True, wait=None, ordered=False, expiry=None, expiry_at=None, responds=sent.id, code=code,
        )  # fmt: skip
        self._world.ledger.enter(response)
        return response

    def _hears(self, body: bytes, bundle: dict[str, object], head: dict[str, object]) -> Reply:
        self.hear(body, bundle, head)
        return Reply(status=202)

    def hear(self, body: bytes, bundle: dict, head: dict) -> None:
        """A response, or a broker's report, of something that this party sent."""
        ledger, quoted, who = self._world.ledger, head["response"]["identifier"], head["source"]["endpoint"]
        sent = ledger.by_header.get(quoted)
        if sent is None or sent.source != self.endpoint:
            ledger.wrong(f"{self.endpoint} hears of {quoted}, which it did not send, from {who}")
            return
        if sent.responds is not None:
            ledger.wrong(f"a bounce of a response: {sent.id}, from {who}")
        response = ledger.messages.get(bundle["id"])
        if response is not None:
            response.arrived.setdefault(self.endpoint, []).append(self._world.loop.time())
            ledger.hears(sent, "response", who, response.id, body)
            return
        ledger.hears(sent, "report", who, _error(bundle), body)

    # -- sending

    async def _send_later(self, sent: Sent, after: float) -> None:
        await asyncio.sleep(after)
        await self.send(sent)

    async def send(self, sent: Sent) -> None:
        """Until somebody takes it or refuses it for good; the wait between two tries grows."""
        world, tries = self._world, 0
        request = Request(
            body=sent.body, asynchronous=sent.asynchronous, wait=sent.wait,
            envelope=Envelope(id=sent.id, source=sent.source, expirytime=sent.expiry),
        )  # fmt: skip
        while tries < 40:
            tries += 1
            began = world.loop.time()
            try:
                reply = await world.network.exchange(
                    self.name, f"sim://{self.home}/in", request, connect=3, answer=(sent.wait or 5) + PATIENCE
                )
            except NoAnswer:
                await asyncio.sleep(min(0.5 * 2 ** min(tries, 4), 8) * world.dice.uniform(0.7, 1.3))
                continue
            if not sent.asynchronous and world.network.is_late(
                began, world.longest if sent.wait is None else sent.wait
            ):
                world.ledger.wrong(f"{self.home} kept who sent {sent.id} for {world.loop.time() - began:.1f} s")
            if self._is_final(sent, reply):
                return
            await asyncio.sleep(world.dice.uniform(1, 5))

    def _is_final(self, sent: Sent, reply: Reply) -> bool:
        """What the broker said; 5xx is later, and word of the message too where it may have been taken."""
        ledger, status = self._world.ledger, reply.status
        if 200 <= status < 300:
            if sent.accepted is None:
                sent.accepted = self._world.loop.time()
            ledger.hears(sent, "ack", "", str(status))
            if status == 200 and reply.body and sent.asks and b"MessageHeader" in reply.body:
                bundle = orjson.loads(reply.body)
                self.hear(reply.body, bundle, bundle["entry"][0]["resource"])
            return True
        if status >= 500 and status != 504:
            return False
        ledger.hears(sent, "status", "", str(status))
        sent.refused = str(status)
        return True

    async def read_mail(self, entries: list[bytes]) -> None:
        """What stands in its mailbox, at the end."""
        for body in entries:
            bundle = orjson.loads(body)
            head = bundle["entry"][0]["resource"]
            if "response" in head:
                self.hear(body, bundle, head)
            else:
                self._world.ledger.arrives(bundle["id"], body, self.endpoint)


def _error(bundle: dict) -> str:
    """The stable id of what a report says."""
    for entry in bundle["entry"]:
        for issue in entry["resource"].get("issue", ()):
            for coding in issue.get("details", {}).get("coding", ()):
                if coding.get("system") == ERROR:
                    return str(coding["code"])
    return ""


__all__ = ["PROMPT", "Heard", "Manner", "Party", "World", "message"]

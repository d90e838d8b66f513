"""The ledger: what every party sent, had and heard, and what the promises say of that once all is healed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.core.delivery import AnswerState, State
from broker.core.message import Fate
from broker.store.tables import Tables

DELIVERED_UNANSWERED = "no-answer"  # a report that says that the message was delivered


@dataclass(slots=True)
class Heard:
    """What a source was told of one of its messages."""

    at: float
    what: str  # response, report, status
    who: str  # endpoint of who speaks, where it is said
    text: str  # id of the response, of the error, or the status
    body: bytes = b""


@dataclass(slots=True, eq=False)
class Sent:
    """A message of a party, and what became of it."""

    id: str
    header: str
    body: bytes
    source: str  # endpoint
    home: str  # its broker
    destinations: tuple[str, ...]
    asks: bool  # for a response
    asynchronous: bool
    wait: float | None
    ordered: bool
    expiry: datetime | None
    expiry_at: float | None
    responds: str | None = None  # id of the message that it answers
    code: str = ""
    accepted: float | None = None
    refused: str = ""  # at the door, for good
    copies: int = 0  # sent once more after it was accepted
    heard: list[Heard] = field(default_factory=list)
    arrived: dict[str, list[float]] = field(default_factory=dict)  # by destination
    silent: set[str] = field(default_factory=set)  # destinations that said that there is nothing to say

    def told(self) -> Iterator[Heard]:
        return (one for one in self.heard if one.what != "ack")


class Broker(Protocol):
    name: str
    deaths: int

    @property
    def tables(self) -> Tables: ...


class Ledger:
    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self.messages: dict[str, Sent] = {}
        self.by_header: dict[str, Sent] = {}
        self.wrongs: list[str] = []  # seen while it ran

    def enter(self, sent: Sent) -> None:
        self.messages[sent.id] = self.by_header[sent.header] = sent

    def wrong(self, text: str) -> None:
        self._tell(f"WRONG: {text}")
        self.wrongs.append(text)

    def arrives(self, id: str, body: bytes, at: str) -> Sent | None:
        """A message that a party sent has come to another; None where that is wrong."""
        sent = self.messages.get(id)
        if sent is None:
            self.wrong(f"{at} was sent {id}, which nobody wrote")
            return None
        if sent.body != body:
            self.wrong(f"promise 3: the bytes of {id} came otherwise to {at}")
        if at not in sent.destinations:
            self.wrong(f"{at} was sent {id}, which is for {' '.join(sent.destinations)}")
        times = sent.arrived.setdefault(at, [])
        times.append(self._clock())
        self._tell(f"{id} arrives at {at}" + (" again" if len(times) > 1 else ""))
        return sent

    def hears(self, sent: Sent, what: str, who: str, text: str, body: bytes = b"") -> None:
        self._tell(f"{sent.source} hears of {sent.id}: {what} {text} {who}")
        sent.heard.append(Heard(self._clock(), what, who, text, body))


def check(
    ledger: Ledger,
    brokers: Sequence[Broker],
    *,
    may_repeat: Callable[[Sent, str], int],
) -> list[str]:
    """What of the promises does not hold; empty if all do."""
    found = list(ledger.wrongs)
    for sent in ledger.messages.values():
        if sent.accepted is not None:
            found += _kept(sent)
            if sent.asks:
                found += _answered(sent)
        found += _once(sent, may_repeat)
        found += _responses(ledger, sent)
    found += _order(ledger)
    for broker in brokers:
        found += _at_rest(broker)
        found += _known(ledger, broker)
    return found


def _kept(sent: Sent) -> list[str]:
    """Promises 1 and 5: it has come to each destination, or its source knows that it has not."""
    told = [one for one in sent.told() if one.what == "status" or one.text != DELIVERED_UNANSWERED]
    refusals = [one for one in told if one.what != "response"]
    missing = [to for to in sent.destinations if to not in sent.arrived and to not in sent.silent]
    if not missing or refusals or sent.responds is not None:
        return []  # a response that cannot come is nobody's to report
    where = " ".join(missing)
    return [f"promise 1: {sent.id}, accepted at {sent.accepted:.3f}, never came to {where}; its source was not told"]


def _answered(sent: Sent) -> list[str]:
    """Promise 5: who asks hears a response, a refusal or that none came."""
    if any(sent.told()) or sent.silent >= set(sent.destinations):
        return []
    return [f"promise 5: {sent.id} was accepted at {sent.accepted:.3f}, and its source heard nothing more"]


def _once(sent: Sent, may_repeat: Callable[[Sent, str], int]) -> list[str]:
    """Promise 2: once for each destination, but for copies that a crash or the network made."""
    found = []
    for to, times in sent.arrived.items():
        allowed = 1 + may_repeat(sent, to)
        if len(times) > allowed:
            found.append(f"promise 2: {sent.id} came to {to} {len(times)} times, {allowed} may be explained")
    return found


def _responses(ledger: Ledger, sent: Sent) -> list[str]:
    found = []
    for one in sent.heard:
        if one.what == "response":
            response = ledger.messages.get(one.text)
            if response is None or response.responds != sent.id:
                found.append(f"{sent.source} was answered to {sent.id} with {one.text}, which does not answer it")
            elif response.body != one.body:
                found.append(f"promise 3: the bytes of {one.text} came otherwise to {sent.source}")
    return found


def _order(ledger: Ledger) -> list[str]:
    """Promise 4: of one source and one destination, in the order in which they were accepted."""
    found = []
    streams: dict[tuple[str, str], list[Sent]] = {}
    for sent in ledger.messages.values():
        if sent.ordered and sent.accepted is not None:
            for to in sent.destinations:
                streams.setdefault((sent.source, to), []).append(sent)
    for (source, to), line in streams.items():
        line.sort(key=lambda sent: sent.accepted or 0)
        last: tuple[float, str] = (0.0, "")
        for sent in line:
            if to not in sent.arrived or any(one.what in ("report", "status") for one in sent.heard):
                continue  # what was given up may come late, once
            first = sent.arrived[to][0]
            if first < last[0]:
                found.append(
                    f"promise 4: {sent.id} came to {to} at {first:.3f}, before {last[1]} of {source}, accepted first"
                )
            last = max(last, (first, sent.id))
    return found


def _known(ledger: Ledger, broker: Broker) -> list[str]:
    """Promises 1 and 2, at the broker itself: what it said it keeps is there, and nothing twice."""
    found, ids = [], set()
    for kept in broker.tables.messages.values():
        message = kept.stored.message
        if message.fate is Fate.MESSAGE and message.header.bundle_id in ids:
            found.append(f"promise 2: {broker.name} has taken {message.header.bundle_id} for two messages")
        ids.add(message.header.bundle_id)
    said = [sent for sent in ledger.messages.values() if sent.home == broker.name and sent.accepted is not None]
    missing = [sent.id for sent in said if sent.id not in ids]
    return found + [f"promise 1: {broker.name} said that it keeps {id}, and has it not" for id in missing]


def _at_rest(broker: Broker) -> list[str]:
    """Promises 5 and 9 of what a broker has kept: everything has ended, and no report is about a report."""
    found, tables = [], broker.tables
    for position, kept in tables.messages.items():
        id = kept.stored.message.header.bundle_id
        for row in tables.of(position):
            one = row.delivery
            if one.state is State.WAITING:
                found.append(f"promise 5: {broker.name} never ended {id} to {one.destination} ({one.steps[-1:]})")
            if one.answer is AnswerState.OPEN:
                found.append(f"promise 5: {broker.name} looks for an answer to {id} for ever")
        if kept.stored.message.fate is Fate.REPORT and kept.new.reports_on is not None:
            about = tables.messages[kept.new.reports_on].stored.message
            if about.fate is not Fate.MESSAGE or about.header.is_response:
                found.append(f"{broker.name} reported on {about.header.bundle_id}, a response or report")
    return found

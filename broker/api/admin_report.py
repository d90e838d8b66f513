"""The report of receipts: who sent what in a period, what came back, what did not, and what was wrongly addressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from aiohttp import web

from broker.api.admin_frame import AdminError, as_json, number_of, text_of
from broker.api.admin_parts import Parts
from broker.core.addressing import NamePatterns, name_key
from broker.core.fhir.header import Format
from broker.core.fhir.issue_codes import LARGEST, issue_codes
from broker.core.hold import Phase
from broker.core.ledger import Mark, is_astray
from broker.store.ledger import Ledger, Line, Refused, Span, Sum

STEP = 20_000  # positions that a reader looks at in one go: some ten milliseconds
PAGE, MOST = 200, 1000
PERIOD = timedelta(days=30)  # where no begin is given
REFUSALS = 50_000  # lines of the tally that one report reads
LISTED = (Mark.OPEN, Mark.MISSING, Mark.NEGATIVE, Mark.UNDELIVERED)

Parties = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The period, and whose messages."""

    begins: datetime
    ends: datetime
    wanted: Callable[[str], bool]


@dataclass(slots=True)
class _Account:
    """One source's sums."""

    expected: int = 0
    answered: int = 0
    open: int = 0
    missing: int = 0
    silent: int = 0
    withdrawn: int = 0
    negative: dict[str, int] = field(default_factory=dict)
    undelivered: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    misaddressed: int = 0

    def add(self, one: Sum) -> None:
        self.expected += one.count if one.expects else 0
        self.misaddressed += one.count if one.astray else 0
        match one.mark:
            case Mark.NEGATIVE:
                self.negative[one.kind] = self.negative.get(one.kind, 0) + one.count
            case Mark.UNDELIVERED:
                self.undelivered[one.kind] = self.undelivered.get(one.kind, 0) + one.count
            case Mark.CARRIED:
                pass
            case _:
                setattr(self, one.mark.value, getattr(self, one.mark.value) + one.count)

    def refuse(self, one: Refused, *, astray: bool) -> None:
        self.refused[one.what.error] = self.refused.get(one.what.error, 0) + one.count
        self.misaddressed += one.count if astray else 0

    def told(self) -> dict[str, Any]:
        return {
            "expected": self.expected, "answered": self.answered,
            "negative": dict(sorted(self.negative.items())), "open": self.open, "missing": self.missing,
            "silent": self.silent, "withdrawn": self.withdrawn,
            "undelivered": dict(sorted(self.undelivered.items())),
            "refused": dict(sorted(self.refused.items())), "misaddressed": self.misaddressed,
        }  # fmt: skip


class Report:
    def __init__(self, parts: Parts, ledger: Ledger, parties: Parties) -> None:
        self._parts = parts
        self._ledger = ledger
        self._parties = {name: NamePatterns(patterns) for name, patterns in parties.items() if patterns}

    async def totals(self, request: web.Request) -> web.Response:
        """The sums, source by source; read in steps, between which everybody else has a turn."""
        asked = self._asked(request)
        now = self._parts.here.now()
        accounts: dict[str, _Account] = {}
        whole = _Account()
        for span in _steps(await self._ledger.span(asked.begins, asked.ends)):
            for one in await self._ledger.sums(span, now):
                if asked.wanted(one.source):
                    accounts.setdefault(one.source, _Account()).add(one)
                    whole.add(one)
        first, last = _days(asked)
        refusals = [one for one in await self._ledger.refusals(first, last, REFUSALS) if asked.wanted(one.what.source)]
        for refused in refusals:
            astray = is_astray(refused.what.code)
            accounts.setdefault(refused.what.source, _Account()).refuse(refused, astray=astray)
            whole.refuse(refused, astray=astray)
        return as_json({
            "from": asked.begins, "to": asked.ends,
            "sources": [
                {"source": source or None, "party": self._party(source), **accounts[source].told()}
                for source in sorted(accounts)
            ],
            "total": whole.told(),
            "misaddressed": [
                {"day": one.what.day, "source": one.what.source or None, "party": one.what.party or None,
                 "destination": one.what.destination or None, "error": one.what.error, "count": one.count}
                for one in refusals if is_astray(one.what.code)
            ],
            "outages": self._outages(now),
        })  # fmt: skip

    async def messages(self, request: web.Request) -> web.Response:
        """The messages without a good receipt, in the order in which they were accepted."""
        asked = self._asked(request)
        now = self._parts.here.now()
        limit = number_of(request, "limit", PAGE, least=1, most=MOST)
        marks = _marks(request)
        period = await self._ledger.span(asked.begins, asked.ends)
        after = max(period.after, number_of(request, "after", 0))
        found: list[Line] = []
        while after < period.last and len(found) < limit:
            step = Span(after=after, last=min(after + STEP, period.last))
            page = await self._ledger.lines(step, now, limit - len(found))
            found += [line for line in page.lines if line.mark in marks and asked.wanted(line.source)]
            after = page.reached
        return as_json({
            "from": asked.begins, "to": asked.ends, "messages": [await self._told(line) for line in found],
            "next": after if after < period.last else None,
        })  # fmt: skip

    async def _told(self, line: Line) -> dict[str, Any]:
        ids = self._parts.here.ids
        return {
            "id": ids.of(line.position), "delivery": line.number, "accepted": line.accepted,
            "source": line.source or None, "party": self._party(line.source), "destination": line.destination or None,
            "event": line.event or None, "what": line.mark.value, "kind": line.kind or None,
            "issues": await self._issues(line),
            "misaddressed": line.astray, "expected": line.expects, "answer_by": line.answer_by,
            "answered_by": None if line.answered_by is None else ids.of(line.answered_by), "text": line.text or None,
        }  # fmt: skip

    async def _issues(self, line: Line) -> tuple[str, ...]:
        """The codes by which the receiver says why, out of its OperationOutcome; its texts stay where they are."""
        if line.said is not None:
            return issue_codes(line.said, _format(line.said))
        if line.mark is not Mark.NEGATIVE or line.answered_by is None:
            return ()
        stored = await self._parts.store.stored(line.answered_by)
        if stored is None or not stored.body_kept or stored.message.size > LARGEST:
            return ()
        return issue_codes(await self._parts.store.body(line.answered_by) or b"", stored.message.header.format)

    def _asked(self, request: web.Request) -> Asked:
        now = self._parts.here.now()
        ends = _instant(text_of(request, "to"), "to", end=True) or now
        begins = _instant(text_of(request, "from"), "from", end=False) or ends - PERIOD
        if begins >= ends:
            raise AdminError(400, "bad-request", "`from` must be before `to`")
        source, party = text_of(request, "source"), text_of(request, "party")
        if source is not None and party is not None:
            raise AdminError(400, "bad-request", "ask for a source or for a party, not for both")
        if party is not None:
            if party not in self._parties:
                known = ", ".join(sorted(self._parties)) or "none"
                raise AdminError(404, "unknown-party", f"no party of that name has endpoints; known: {known}")
            return Asked(begins=begins, ends=ends, wanted=self._parties[party].match)
        if source is not None:
            key = name_key(source)
            return Asked(begins=begins, ends=ends, wanted=lambda one: one == key)
        return Asked(begins=begins, ends=ends, wanted=lambda _one: True)

    def _party(self, source: str) -> str | None:
        return next((name for name, patterns in self._parties.items() if source and patterns.match(source)), None)

    def _outages(self, now: datetime) -> list[dict[str, Any]]:
        """What is not reached now: planned by an operator, or left alone since it does not answer."""
        delivering = self._parts.delivering
        held = [
            {"lane": hold.lane, "planned": True, "from": hold.begins, "until": hold.ends, "reason": hold.reason or None}
            for hold in delivering.holds.values() if hold.phase(now) is not Phase.OVER
        ]  # fmt: skip
        closed = [
            {"lane": lane.name, "planned": False, "from": None, "until": lane.closed_until, "reason": lane.reason}
            for lane in delivering.lanes.values() if lane.closed_until is not None
        ]  # fmt: skip
        return [*held, *closed]


def _format(body: bytes) -> Format:
    return Format.XML if body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") else Format.JSON


def _steps(span: Span) -> list[Span]:
    return [
        Span(after=after, last=min(after + STEP, span.last)) for after in range(span.after, span.last, STEP)
    ]  # fmt: skip


def _days(asked: Asked) -> tuple[date, date]:
    """The tally knows days only: those that the period touches."""
    last = asked.ends - timedelta(microseconds=1)
    return asked.begins.date(), last.date()


def _marks(request: web.Request) -> frozenset[Mark]:
    text = text_of(request, "what")
    if text is None:
        return frozenset(LISTED)
    known = {mark.value: mark for mark in LISTED}
    asked = text.split(",")
    unknown = [one for one in asked if one not in known]
    if unknown:
        raise AdminError(400, "bad-request", f"`what` is one or more of {', '.join(known)}, separated by commas")
    return frozenset(known[one] for one in asked)


def _instant(text: str | None, name: str, *, end: bool) -> datetime | None:
    """A day or a time, UTC where it does not say; a day as the end is meant with all its hours."""
    if text is None:
        return None
    try:
        if len(text) == 10:
            day = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
            return day + timedelta(days=1) if end else day
        written = datetime.fromisoformat(text.replace(" ", "+"))  # a `+` that was not encoded
        return (written if written.tzinfo else written.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        text = f"`{name}` must be a day or a time, as 2026-11-01 or 2026-11-01T08:00:00Z"
        raise AdminError(400, "bad-request", text) from None

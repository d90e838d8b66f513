"""What is refused at the door leaves no message behind: it is counted, and the counts are kept now and then, by day.

A refusal must cost the store nothing of its own. A crash forgets the last few seconds of the counts.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Mapping
from typing import Protocol

import structlog

from broker.channel import Arrival
from broker.core.addressing import name_key
from broker.core.fhir.header import Header
from broker.core.ledger import is_astray
from broker.core.outcome import Problem
from broker.flow.here import Here
from broker.store import StoreError
from broker.store.ledger import RefusedAs

log = structlog.get_logger("broker.refusals")

EVERY = 5.0  # seconds
AT_ONCE = 1_000  # different refusals that memory tells apart between two writes; further ones lose their names
LONGEST = 200  # characters of a name: what a stranger makes up is cut off


class Ledger(Protocol):
    """Where the counts are kept."""

    def refused(self, counts: Mapping[RefusedAs, int]) -> Future[None]: ...


class Refusals:
    def __init__(self, *, here: Here, ledger: Ledger) -> None:
        self._here = here
        self._ledger = ledger
        self._counts: dict[RefusedAs, int] = {}

    def note(self, arrival: Arrival, header: Header | None, problem: Problem, destination: str | None = None) -> None:
        """One message, or one of its destinations, was refused."""
        astray = is_astray(problem.code)
        if destination is None and astray and header is not None:
            destination = next((one.endpoint for one in header.destinations if one.endpoint), None)
        what = RefusedAs(
            day=self._here.now().date(),
            source=name_key(header.source)[:LONGEST] if header is not None and header.source else "",
            party=arrival.peer.party or "",
            error=problem.id,
            code=problem.code,
            destination=(destination or "")[:LONGEST] if astray else "",
        )
        if what not in self._counts and len(self._counts) >= AT_ONCE:
            what = RefusedAs(
                day=what.day, source="", party=what.party, error=what.error, code=what.code, destination=""
            )
        self._counts[what] = self._counts.get(what, 0) + 1

    async def run(self) -> None:
        """Keeps the counts until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.keep()

    async def keep(self) -> None:
        """What could not be written is added to what comes."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._ledger.refused(counts)
        except StoreError as error:
            log.warning("refusals are not kept yet, it is tried again", error=str(error))
            for what, count in list(counts.items())[:AT_ONCE]:
                self._counts[what] = self._counts.get(what, 0) + count

"""What is kept is kept so long: once its time is over, the store is asked to let go of it, a little at a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from broker.flow.here import Here
from broker.store import Cutoffs, Removed, Store, StoreError

log = structlog.get_logger("broker.retention")

EVERY = 60.0  # seconds
BREATH = 2.0  # times as long as a step took, others have the store before the next one …
SHORTEST, LONGEST = 0.005, 0.25  # … and in seconds
BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """How long each kind is kept (`store.retention`)."""

    body: timedelta
    mailbox: timedelta
    identity: timedelta
    trace: timedelta

    def before(self, now: datetime) -> Cutoffs:
        """What was accepted before these instants has had its time."""
        return Cutoffs(
            body=_before(now, self.body),
            mailbox=_before(now, self.mailbox),
            identity=_before(now, self.identity),
            trace=_before(now, self.trace),
        )


def _before(now: datetime, age: timedelta) -> datetime:
    return now - min(age, now - BEGIN)  # a setting of a million days is "for ever", not an error


class Retaining:
    def __init__(self, *, here: Here, store: Store, ages: Ages) -> None:
        self._here = here
        self._store = store
        self._ages = ages

    async def run(self) -> None:
        """Rounds until cancelled."""
        while True:
            try:
                await self.once()
            except StoreError as error:
                log.warning("retention failed, it is tried again", error=str(error))
            await asyncio.sleep(EVERY)

    async def once(self) -> None:
        """One round: steps, for as long as there is more."""
        total = Removed(body=0, mailbox=0, identity=0, trace=0, more=True)
        clock = asyncio.get_running_loop().time
        try:
            while total.more:
                started = clock()
                total = _together(total, await self._store.retain(self._ages.before(self._here.now())))
                if total.more:
                    await asyncio.sleep(min(max(BREATH * (clock() - started), SHORTEST), LONGEST))
        finally:
            if any((total.body, total.mailbox, total.identity, total.trace)):
                log.info(
                    "retention", bodies=total.body, mail=total.mailbox, identities=total.identity, traces=total.trace
                )


def _together(total: Removed, step: Removed) -> Removed:
    return Removed(
        body=total.body + step.body,
        mailbox=total.mailbox + step.mailbox,
        identity=total.identity + step.identity,
        trace=total.trace + step.trace,
        more=step.more,
    )

"""What time alone brings about: deliveries that expire, answers that never came, mail that nobody read."""

from __future__ import annotations

import asyncio

import structlog

from broker.core.delivery import AnswerState
from broker.core.outcome import Problem, Severity, Who
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.report import Reports
from broker.store import Delivery, NewMessage, Settled, Store, StoreError

log = structlog.get_logger("broker.sweep")

EVERY = 1.0  # seconds
AT_ONCE = 200  # rows in one sweep; the rest follows in the next


class Sweeping:
    def __init__(self, *, here: Here, store: Store, delivering: Delivering, reports: Reports) -> None:
        self._here = here
        self._store = store
        self._delivering = delivering
        self._reports = reports

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.once()
            except StoreError as error:
                log.warning("sweep failed, it is tried again", error=str(error))
            await asyncio.sleep(EVERY)

    async def once(self) -> None:
        now = self._here.now()
        for delivery in await self._store.expired(now, AT_ONCE):
            await self._expire(delivery)
        for delivery in await self._store.unanswered(now, AT_ONCE):
            await self._unanswered(delivery)
        for mailbox, position in await self._store.unread_mail(now, AT_ONCE):
            await self._unread(mailbox, position)

    async def _expire(self, delivery: Delivery) -> None:
        if self._delivering.is_under_way(delivery.lane, delivery.position, delivery.number):
            return  # its attempt was made in time; its end decides
        self._delivering.forget_one(delivery.position, delivery.number)
        stored = await self._store.stored(delivery.position)
        if stored is not None:
            self._delivering.settling.expire(delivery, stored.message)

    async def _unanswered(self, delivery: Delivery) -> None:
        stored = await self._store.stored(delivery.position)
        state, problem = _unanswered(delivery)
        report = None
        # M-34: `on-error` and `never` mean that silence is the answer
        silent = stored is not None and stored.message.header.response_request in ("on-error", "never")
        if problem is not None and stored is not None and not silent and delivery.policy.bounce == "always":
            report = self._reports.about(
                delivery.position, stored.message, problem, final=False, destination=delivery.destination or None
            )
        settled = await self._store.missing(delivery.position, delivery.number, self._here.now(), report, state)
        self._came(settled, report)

    async def _unread(self, mailbox: str, position: int) -> None:
        problem = Problem(
            code="timeout",
            id="unread",
            who=Who.RECEIVER,
            severity=Severity.WARNING,
            text="nobody has read the message yet; it stays in the mailbox, do not send it again",
        )
        report = None
        stored = await self._store.stored(position)
        if stored is not None:
            deliveries = await self._store.deliveries(position)
            wanted = all(delivery.policy.bounce == "always" for delivery in deliveries)
            if wanted:
                report = self._reports.about(position, stored.message, problem, final=False, destination=mailbox)
        settled = await self._store.unread(mailbox, position, report)
        self._came(settled, report)

    def _came(self, settled: Settled, report: NewMessage | None) -> None:
        if settled.came is not None and report is not None:
            self._delivering.settling.came(settled.came, report)


def _unanswered(delivery: Delivery) -> tuple[AnswerState, Problem | None]:
    """What becomes of an open answer whose time is over, and what the source is told."""
    if delivery.answered_by is None:
        return AnswerState.MISSING, Problem(
            code="timeout",
            id="no-answer",
            who=Who.RECEIVER,
            text="the message was delivered, and no response has come in the time that was given for it",
        )
    if not delivery.policy.final:
        return AnswerState.ANSWERED, None  # nobody has said what the last response looks like: time alone ends it
    return AnswerState.MISSING, Problem(
        code="timeout",
        id="no-final-answer",
        who=Who.RECEIVER,
        text="the message was delivered and answered, but the final response has not come in the time that was given"
        " for it; do not send the message again",
    )

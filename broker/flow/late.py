"""Late: word about a delivery that comes after the other side took custody of it (A-40, A-41)."""

from __future__ import annotations

from broker.channel import Late, LateReport
from broker.core.delivery import NEXT, Event, Outcome, State, Step
from broker.core.message import Fate
from broker.core.outcome import Problem, StoreUnavailable, Who
from broker.flow.attempt import wants_bounce
from broker.flow.here import Here
from broker.flow.live import Live
from broker.flow.report import Reports
from broker.flow.settle import Settling
from broker.store import Delivery, NewMessage, Note, Store, Stored, StoreError

FAILED = NEXT[State.DONE][Event.FAILED_LATER]


class LateReports:
    """Takes reports that channels correlate, and makes dead what failed after all (broker.channel.Host.report)."""

    def __init__(self, *, here: Here, store: Store, reports: Reports, settling: Settling, live: Live) -> None:
        self._here = here
        self._store = store
        self._reports = reports
        self._settling = settling
        self._live = live

    async def __call__(self, report: LateReport) -> bool:
        position = self._here.ids.position(report.message_id)
        if position is None:
            return False
        try:
            deliveries = await self._store.deliveries(position)
            about = [one for one in deliveries if not report.address or one.address == report.address]
            if not about:
                return False
            if report.what is not Late.FAILED:
                note = Note(at=self._here.now(), what=report.what.value, who=report.address, text=report.note)
                await self._store.note(position, note)
                return True
            for delivery in about:
                await self._fail(delivery, report)
        except StoreError as error:
            raise StoreUnavailable("the report cannot be kept now; send it again later") from error
        return True

    async def _fail(self, delivery: Delivery, report: LateReport) -> None:
        """Dead after all; a second report of the same finds it dead, and changes nothing."""
        if delivery.state is not State.DONE:
            return
        problem = report.problem or Problem(
            code="processing",
            id="failed-later",
            who=Who.RECEIVER,
            text=f"it was not delivered after all: {report.note}",
        )
        stored = await self._store.stored(delivery.position)
        tells = self._report(delivery, stored, problem)
        step = Step(at=self._here.now(), what=Event.FAILED_LATER.value, note=report.note)
        settled = await self._store.fail_later(
            delivery.position, delivery.number, FAILED, step, Outcome(problem=problem), tells
        )
        if not settled.changed:
            return
        if settled.came is not None and tells is not None:
            self._settling.came(settled.came, tells)
        self._settling.died(delivery, problem)
        if stored is not None and stored.message.fate is Fate.NOTICE and self._settling.notices is not None:
            self._settling.notices.failed_later(delivery, problem.text or report.note)
        if self._live and stored is not None:
            self._live.tell(
                stored.message.source, step.what, delivery.position, destination=delivery.destination, note=problem.id
            )

    def _report(self, delivery: Delivery, stored: Stored | None, problem: Problem) -> NewMessage | None:
        if stored is None or not wants_bounce(delivery.policy):
            return None
        final = problem.code != "timeout"  # who has given up for time may be tried again
        return self._reports.about(
            delivery.position, stored.message, problem, final=final, destination=delivery.destination or None
        )

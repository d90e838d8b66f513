"""The notifications that are under way: whose they are, whether they are still wanted, and how they ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

import msgspec
import structlog

from broker.core.delivery import Event, Outcome, State, Step
from broker.core.outcome import Problem, Who
from broker.core.subscription import schedule
from broker.core.subscription.life import Happening
from broker.flow.here import Here
from broker.flow.subscribing.registry import Registry
from broker.store import Change, Delivery, Kept, NewMessage, Released, Settlement, Store, StoreError
from broker.store.telling import Notice, Subscribed

log = structlog.get_logger("broker.subscriptions")

LOOK = timedelta(minutes=1)  # between looks at what is under way, in case its end was missed
LOOKS = 500  # at so many in one look
WHY = "its subscription was changed, or has ended"  # of a notification that is withdrawn
GONE = 410  # HTTP's and webhooks' word for: never again (C-27)

Ends = Callable[[int, Happening | None, str], None]


class Carrying(Protocol):
    """The deliveries, as far as notifications are among them."""

    def take(self, kept: Kept, new: NewMessage) -> None: ...
    def may_have_left(self, lane: str, position: int, number: int) -> bool: ...
    def forget_one(self, position: int, number: int) -> None: ...
    def woken(self, lane: str, key: str) -> None: ...


class UnderWay:
    def __init__(self, *, here: Here, store: Store, registry: Registry, carrying: Carrying, ends: Ends) -> None:
        self._here = here
        self._store = store
        self._registry = registry
        self._carrying = carrying
        self._ends = ends
        self._keys: dict[int, int] = {}  # by position
        self._notices: dict[int, tuple[Notice, Subscribed]] = {}  # by key; and as what it was composed

    def __contains__(self, key: int) -> bool:
        return key in self._notices

    def add(self, row: Subscribed, notice: Notice) -> None:
        self._keys[notice.position] = row.key
        self._notices[row.key] = (notice, row)

    def key_of(self, position: int) -> int | None:
        return self._keys.get(position)

    def remove(self, position: int) -> int | None:
        """Whose it was; None where it was none of ours, or has ended before."""
        key = self._keys.pop(position, None)
        if key is not None:
            self._notices.pop(key, None)
        return key

    # -- whether it is wanted

    def is_stale(self, row: Subscribed) -> bool:
        known = self._notices.get(row.key)
        if row.notice is None or known is None:
            return False
        if schedule.is_stale(row.life, row.notice.kind, behind=row.sent < row.counted):
            return True
        return known[1].subscription != row.subscription

    def may_have_left(self, key: int) -> bool:
        """Whether an attempt is under way: then it ends as it does."""
        notice, _ = self._notices[key]
        return self._carrying.may_have_left("", notice.position, notice.number)

    async def take_back(self, key: int) -> None:
        """Withdraws what is not wanted any more, unless it has left."""
        known = self._notices.get(key)
        row = self._registry.get(key)
        if known is None or (row is not None and not self.is_stale(row)) or self.may_have_left(key):
            return
        notice, _ = known
        self._carrying.forget_one(notice.position, notice.number)
        # also where an attempt has failed: what may have arrived is told again, as after a crash
        step = Step(at=self._here.now(), what=Event.CANCELLED.value, note=WHY)
        change = Change(
            position=notice.position, numbers=(notice.number,), state=State.WITHDRAWN, step=step, attempted=False
        )
        done = await self._store.settle(Settlement(change=change))
        for queue in done.released:
            self._carrying.woken(*queue)
        if done.changed:
            self._ends(notice.position, None, "")
        else:
            await self.look_at(notice.position)

    def drop(self, notice: Notice) -> None:
        """It is no dead letter that anybody could want: the first of a gap shows it, `$events` has the rest."""
        why = "the subscription goes on; what it missed is found by $events"
        done = self._store.drop(notice.position, notice.number, self._here.now(), why)
        done.add_done_callback(_is_no_news)

    # -- how it ended

    async def look_after(self) -> None:
        """How what was under way has ended while nobody listened: at the start, and now and then."""
        positions = list(self._keys)
        while True:
            for position in positions:
                try:
                    await self.look_at(position)
                except StoreError as error:
                    log.warning("what is under way cannot be looked at", error=str(error))
            await asyncio.sleep(LOOK.total_seconds())
            positions = list(self._keys)[:LOOKS]

    async def look_at(self, position: int) -> None:
        found = await self._store.deliveries(position)
        key = self._keys.get(position)
        if key is None:
            return
        if not found:
            self._ends(position, Happening.GAVE_UP, "it is kept no longer")
            return
        delivery = found[0]
        if delivery.state is State.WAITING:
            self._follows_its_endpoint(key, delivery)
        elif delivery.state is State.WITHDRAWN and any(step.note == WHY for step in delivery.steps):
            self._ends(position, None, "")
        else:
            note = delivery.steps[-1].note if delivery.steps else ""
            self._ends(position, *what_happened(delivery.outcome or _outcome(delivery), note))

    def _follows_its_endpoint(self, key: int, delivery: Delivery) -> None:
        """After a crash: it was composed for an endpoint that the subscription may not have any more."""
        row = self._registry.get(key)
        if row is not None and delivery.fixed and delivery.address != row.subscription.endpoint:
            old = msgspec.structs.replace(row.subscription, endpoint=delivery.address)
            self._notices[key] = (self._notices[key][0], msgspec.structs.replace(row, subscription=old))
            self._registry.put(row)  # whoever listens looks again


def _is_no_news(done: asyncio.Future[Released | None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.warning("a notification stays among the dead letters", error=str(done.exception()))


def what_happened(outcome: Outcome, note: str) -> tuple[Happening, str]:
    """What the end of a delivery means for its subscription."""
    problem = outcome.problem
    if problem is None:
        return Happening.DELIVERED, note
    is_gone = outcome.status == GONE or problem.id == "gone"
    return Happening.SWITCHED_OFF if is_gone else Happening.GAVE_UP, note or problem.text


def _outcome(delivery: Delivery) -> Outcome:
    """Of what has ended without a word on how."""
    if delivery.state is State.DONE:
        return Outcome()
    return Outcome(problem=Problem(code="processing", id="withdrawn", who=Who.BROKER, text="it was withdrawn"))

"""Notices: from numbers that wait to notifications on their way, one at a time for each subscription.

It is woken by the registry and by time. What is to be sent is decided anew each time (`core.subscription.schedule`),
composed, kept by the store together with the word which subscription it is for, and handed to the lanes. When its
delivery has ended, the subscription moves on. Sockets are not its concern: `feed` serves them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from broker.channel import Manner
from broker.core.delivery import Event, State
from broker.core.message import Message
from broker.core.outcome import Refusal
from broker.core.subscription import schedule
from broker.core.subscription.life import Happening, Policy
from broker.core.subscription.notification import Kind
from broker.core.subscription.topic import Topic
from broker.flow.attempt import End
from broker.flow.here import Here
from broker.flow.subscribing.composing import KINDS, Composing
from broker.flow.subscribing.fresh import Fresh
from broker.flow.subscribing.moves import Moves, Word
from broker.flow.subscribing.posting import Posting
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.starts import Starts, Timers
from broker.flow.subscribing.under_way import WHY, Carrying, UnderWay, what_happened
from broker.store import Copy, Delivery, Kept, NewMessage, Store, StoreError
from broker.store.telling import Heard, Notice, Subscribed, Telling

log = structlog.get_logger("broker.subscriptions")

COMPOSERS = 8  # at once: what is read for one is there for the next
TICK = 1.0  # seconds between looks at the time when nothing calls for an earlier one
AGAIN = timedelta(seconds=30)  # after what could not even be set out
ROOM = timedelta(seconds=3)  # until it is looked whether the store has room again


class Notices:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        telling: Telling,
        registry: Registry,
        composing: Composing,
        posting: Posting,
        carrying: Carrying,
        room: Callable[[], None],
        starts: Starts,
        policy: Policy,
    ) -> None:
        self._here = here
        self._store = store
        self._telling = telling
        self._registry = registry
        self._composing = composing
        self._posting = posting
        self._carrying = carrying
        self._room = room  # raises Refusal where the store has none for what is new
        self._policy = policy
        self._ready: deque[int] = deque()  # keys of those that want something now
        self._queued: set[int] = set()  # the same, and those that are at it
        self._wake = asyncio.Event()
        self._poke = asyncio.Event()
        self._timers = Timers()
        self._starts = starts
        # until when one is left alone whose notification could not set out, and the version of it
        self._resting: dict[int, tuple[datetime, int]] = {}
        self._fresh = Fresh(self.consider)
        self._under_way = UnderWay(here=here, store=store, registry=registry, carrying=carrying, ends=self._ends)
        self._moves = Moves(here=here, telling=telling, registry=registry, policy=policy, moved=self.consider)
        registry.on_change(self.consider)

    # -- what there is to do

    def happens(self, key: int, word: Word) -> None:
        """What others find out about a subscription, written after what is being written."""
        self._moves.happens(key, word)

    def load(self) -> None:
        """What the registry has from the store: known before anything of it can end."""
        for row in self._registry:
            if row.notice is not None:
                self._under_way.add(row, row.notice)

    async def run(self) -> None:
        """Composes and sets out what is wanted, until cancelled. What was under way is looked at first."""
        for row in self._registry:
            self.consider(row.key)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._under_way.look_after(), name="notices under way")
            tasks.create_task(self._keep_time(), name="notices in time")
            for _ in range(COMPOSERS):
                tasks.create_task(self._compose(), name="notices")

    @property
    def is_idle(self) -> bool:
        """Whether nothing is wanted now, and nothing is being written."""
        return not self._queued and not self._moves.under_way

    def consider(self, key: int) -> None:
        """Something has changed for a subscription, or its time has come."""
        row = self._registry.get(key)
        if row is None:
            self._forget(key)
            if key in self._under_way and key not in self._queued and not self._under_way.may_have_left(key):
                self._put(key)  # to take what is under way back
            return
        if key in self._queued or key in self._moves:
            return  # whoever is at it considers it again
        if row.notice is None and row.subscription.channel.code == "websocket":
            return
        now = self._here.now()
        under_way = row.notice is not None
        times = [schedule.looks_again(row.subscription, row.life, under_way=under_way, policy=self._policy)]
        if under_way:
            happening = schedule.overdue(row.subscription, row.life, now=now, policy=self._policy)
            if happening is not None:
                self._moves.happens(key, Word(happening))
            elif self._under_way.is_stale(row) and not self._under_way.may_have_left(key):
                self._put(key)
        elif (rests := self._rests(row)) is not None and rests > now:
            times.append(rests)
        else:
            times.append(self._consider_what_is_wanted(row, now))
        self._timers.set(key, min((at for at in times if at is not None), default=None))
        self._poke.set()

    def _forget(self, key: int) -> None:
        """It is deleted: nothing of it stays in memory but what is on its way."""
        self._resting.pop(key, None)
        self._starts.has_started(key)
        self._timers.set(key, None)
        self._fresh.forget(key)

    def _consider_what_is_wanted(self, row: Subscribed, now: datetime) -> datetime | None:
        """Returns when it may start, where that is not now."""
        wanted = self._wanted(row, now)
        if not isinstance(wanted, Kind):
            self._fresh.forget(row.key)
            if wanted is not None:
                self._moves.happens(row.key, Word(wanted))
            return None
        if wanted is Kind.EVENT:
            start = self._starts.of(row.key, row.subscription.id, self._topic(row))
            if start > self._here.now():  # not `now`: it has gone on meanwhile
                return start
        if not self._fresh.waits(row.key, self._peer(row)):
            self._put(row.key)
        return None

    def _peer(self, row: Subscribed) -> str:
        try:
            return self._posting.lane_of(row.subscription)
        except Refusal:
            return ""

    def _wanted(self, row: Subscribed, now: datetime) -> Kind | Happening | None:
        behind = row.sent < row.counted
        return schedule.wants(row.subscription, row.life, behind=behind, now=now, policy=self._policy)

    def _topic(self, row: Subscribed) -> Topic | None:
        return self._registry.topic_of(row.subscription)

    def _put(self, key: int) -> None:
        self._queued.add(key)
        self._ready.append(key)
        self._wake.set()

    async def _keep_time(self) -> None:
        while True:
            now = self._here.now()
            for key in self._timers.due(now):
                self.consider(key)
            self._moves.try_again(now)
            self._poke.clear()
            first = self._timers.first()
            pause = TICK if first is None else min(max((first - now).total_seconds(), 0.02), TICK)
            try:
                async with asyncio.timeout(pause):
                    await self._poke.wait()
            except TimeoutError:
                continue

    # -- setting out

    async def _compose(self) -> None:
        while True:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
            key = self._ready.popleft()
            try:
                done = await self._step(key)
            except (StoreError, OSError) as error:
                log.warning("a notification could not be kept; it is tried again", error=str(error))
                self._rest(key)
                done = True
            except Exception:  # a bug costs this subscription a delay, and the others nothing
                log.exception("a notification could not be made", key=key)
                self._rest(key)
                done = True
            if done:
                self._queued.discard(key)
                self.consider(key)

    def _rest(self, key: int, wait: timedelta = AGAIN) -> None:
        row = self._registry.get(key)
        if row is not None:
            self._resting[key] = (self._here.now() + wait, row.version)

    def _rests(self, row: Subscribed) -> datetime | None:
        """Until when it is left alone, unless its client has changed it since."""
        until, version = self._resting.get(row.key, (None, 0))
        return until if version == row.version else None

    async def _step(self, key: int) -> bool:
        """Does what one subscription wants now; False where somebody else goes on with it."""
        row = self._registry.get(key)
        if row is None or row.notice is not None:
            await self._under_way.take_back(key)
            return True
        self._resting.pop(key, None)
        wanted = self._wanted(row, self._here.now())
        if not isinstance(wanted, Kind):
            return True
        try:
            self._room()
        except Refusal:  # what is left of the disk is for what was accepted; the numbers wait
            self._rest(key, ROOM)
            return True
        try:
            peer = self._posting.lane_of(row.subscription)
        except Refusal as refusal:
            self._not_set_out(row, wanted, refusal)
            return True
        if not self._fresh.enters(key, peer):
            return True
        kept = False
        try:
            kept = await self._set_out(row, wanted, peer)
        except Refusal as refusal:
            self._not_set_out(row, wanted, refusal)
        finally:
            if not kept:
                self._fresh.leaves(peer)
        return not kept

    async def _set_out(self, row: Subscribed, kind: Kind, peer: str) -> bool:
        """Composes it and hands it to the store; what comes of that is no reason to wait here."""
        heard: tuple[Heard, ...] = ()
        if kind is Kind.EVENT:
            most = self._composing.most(row.subscription)
            heard = await self._telling.heard(row.key, row.sent + 1, row.counted, most)
            if not heard:  # retention took all of it
                self._moves.happens(row.key, Word(Happening.GAVE_UP, "events are kept no longer", sent=row.counted))
                return False
        composed = await self._composing.compose(row, kind, heard)
        now = self._registry.get(row.key)
        if now is not row:  # while it was composed something happened
            if now is None or now.subscription is not row.subscription or now.notice is not None:
                return False
            if self._wanted(now, self._here.now()) is not kind:
                return False
        new = self._posting.message(row, kind, composed, self._composing.url(row.subscription))
        future = self._telling.notice(row.key, new, kind, first=composed.first, last=composed.last)
        notice = Notice(position=0, number=0, kind=kind, first=composed.first, last=composed.last)
        future.add_done_callback(lambda done: self._kept(row, new, notice, peer, done))
        return True

    def _kept(
        self, row: Subscribed, new: NewMessage, notice: Notice, peer: str, done: asyncio.Future[Kept | Copy | None]
    ) -> None:
        """It is on disk: it sets out."""
        key = row.key
        kept = None if done.cancelled() or done.exception() is not None else done.result()
        if not isinstance(kept, Kept):
            self._fresh.leaves(peer)
            self._rest(key)
            if kept is not None or done.cancelled() or done.exception() is not None:
                log.warning("a notification could not be kept; it is tried again", subscription=row.subscription.id)
        else:
            notice = msgspec.structs.replace(notice, position=kept.position, number=kept.numbers[0])
            self._fresh.is_at(kept.position, peer)
            self._starts.has_started(key)
            self._under_way.add(row, notice)
            now = self._registry.get(key)
            if now is not None:
                self._registry.put(msgspec.structs.replace(now, notice=notice))
            self._carrying.take(kept, new)
            if new.deliveries[0].state is State.DONE:  # put into a mailbox: that was the delivery
                self._ends(notice.position, Happening.DELIVERED, "")
        self._queued.discard(key)
        self.consider(key)

    def _not_set_out(self, row: Subscribed, kind: Kind, refusal: Refusal) -> None:
        """There is no way to its endpoint: as if an attempt had failed."""
        log.warning("a notification cannot set out", subscription=row.subscription.id, error=str(refusal))
        happening = Happening.NOT_GREETED if kind is Kind.HANDSHAKE else Happening.FAILED
        self._rest(row.key)
        self._moves.happens(row.key, Word(happening, str(refusal)))

    # -- what became of it

    def manner(self, message: Message, delivery: Delivery) -> Manner | None:
        """How a notification is sent, as its subscription says now; raises LookupError where that is gone."""
        if message.header.event.system != KINDS:
            return None
        row = self._registry.find(delivery.destination.rpartition("/")[2])
        if row is None or row.subscription.endpoint != delivery.address:
            raise LookupError(WHY)
        try:
            self._posting.lane_of(row.subscription)  # the list of endpoints may have become shorter (S-61)
        except Refusal as refusal:
            raise LookupError(str(refusal)) from refusal
        return self._composing.manner(row.subscription, message, delivery.destination)

    def ended(self, position: int, end: End) -> None:
        """An attempt of a notification has ended, and the store knows."""
        step = end.change.step
        if end.outcome is None:
            self._fresh.was_tried(position)
            if step.what == Event.DEFERRED.value:
                self._fails(position, step.note, step.status)
            return
        self._ends(position, *what_happened(end.outcome, step.note))

    def _fails(self, position: int, note: str, status: int | None) -> None:
        key = self._under_way.key_of(position)
        row = None if key is None else self._registry.get(key)
        if row is None or row.notice is None or row.notice.position != position:
            if key is not None:
                self.consider(key)
            return
        happening = Happening.FAILED
        if row.notice.kind is Kind.HANDSHAKE:
            reached = status is not None and 200 <= status < 300
            if reached and self._composing.may_consent_later(row.subscription):
                return
            happening = Happening.NOT_GREETED
        self._moves.happens(row.key, Word(happening, note))

    def _ends(self, position: int, happening: Happening | None, note: str) -> None:
        """`happening` is None for what was withdrawn by us: it is as if it had never been."""
        self._fresh.was_tried(position)
        key = self._under_way.remove(position)
        row = None if key is None else self._registry.get(key)
        if row is None or row.notice is None or row.notice.position != position:
            return
        notice, sent = row.notice, None
        if happening is Happening.GAVE_UP and (notice.kind is not Kind.EVENT or row.life.has_gap):
            self._under_way.drop(notice)
        if notice.kind is Kind.EVENT and happening is not None:
            # it was set back (`$resend`), or is never sent again: then it goes on from where it stands
            if row.sent == notice.first - 1 and happening is not Happening.SWITCHED_OFF:
                sent = notice.last
            if notice.last < row.counted:
                self._starts.catches_up(row.key, self._topic(row))
        elif notice.kind is Kind.HANDSHAKE:
            happening = {Happening.DELIVERED: Happening.GREETED, Happening.GAVE_UP: Happening.NOT_GREETED}.get(
                happening or Happening.FAILED, happening
            )
        elif happening is Happening.GAVE_UP:
            happening = Happening.FAILED  # no event was in it
        beat = notice.kind is Kind.HEARTBEAT
        self._moves.happens(row.key, Word(happening, note, sent=sent, ended=position, beat=beat))

    def failed_later(self, delivery: Delivery, note: str) -> None:
        """Word came after custody was taken: what it told of has not arrived (A-40)."""
        row = self._registry.find(delivery.destination.rpartition("/")[2])
        if row is not None:
            self._moves.happens(row.key, Word(Happening.GAVE_UP, note))

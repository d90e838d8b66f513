"""Subscriptions that are told over sockets (S-42 to S-44): bound by id or token, fed from the log, cut when revoked.

Nothing waits in memory for a socket but that there is more: it reads the numbers after the last it was handed, when it
has room for them. How far it was told is written to the store now and then, and when nobody listens any more; after a
crash what was told since then is told again, with its numbers. There are no notices and no acknowledgements.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import Lock
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from broker.channel import Peer
from broker.core.outcome import Gone, Refusal
from broker.core.subscription import binding, life, schedule
from broker.core.subscription.binding import How
from broker.core.subscription.life import Happening
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Model, Status
from broker.flow.here import Here
from broker.flow.subscribing.admitting import ENDED, Admitting, is_fed
from broker.flow.subscribing.composing import Composing
from broker.flow.subscribing.moves import Moves, Word
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.socket import Bound, Socket
from broker.flow.subscribing.starts import Starts, Timers
from broker.store import StoreError
from broker.store.telling import Subscribed, Telling

log = structlog.get_logger("broker.subscriptions")

READING = 8  # notifications that are read and composed at once: their events are in memory meanwhile
SAVED_AT_ONCE = 200  # subscriptions whose progress is written in one step …
EVERY = 1.0  # … and seconds between the steps: 5,000 busy sockets are a few writes among those of the messages
AGAIN = timedelta(seconds=1)  # after which a store that could not be asked is asked again


class Line:
    """A subscription that somebody listens to, on one socket or on several."""

    __slots__ = ("again", "bounds", "composing", "made", "saved", "sent", "version")

    def __init__(self, row: Subscribed) -> None:
        self.bounds: dict[Bound, None] = {}
        self.sent = row.sent  # the highest number that was written on a socket
        self.saved = row.sent  # the same as the store has it
        self.version = row.version
        self.again: datetime | None = None  # when what could not be told now is looked at again
        self.composing: Lock | None = None  # of several sockets, the first composes what all of them are told
        self.made: tuple[tuple[int, int, int], tuple[str, int]] | None = None  # what all of them are told: of what


class Feeds:
    def __init__(
        self,
        *,
        here: Here,
        store: Telling,
        registry: Registry,
        composing: Composing,
        starts: Starts,
        admitting: Admitting,
        policy: life.Policy,
    ) -> None:
        self._here = here
        self._store = store
        self._registry = registry
        self._composing = composing
        self._starts = starts
        self._admitting = admitting
        self._policy = policy
        self._lines: dict[int, Line] = {}
        self._unsaved: dict[int, None] = {}
        self._moves = Moves(here=here, telling=store, registry=registry, policy=policy, moved=self._changed)
        self._timers = Timers()  # when a subscription is looked at next
        self._reading = asyncio.Semaphore(READING)
        self._sooner = asyncio.Event()
        registry.on_change(self._changed)
        for row in registry:
            self._changed(row.key)

    def token(self, ids: Sequence[str], now: datetime) -> tuple[str, datetime]:
        """A token for these subscriptions, and when it expires; raises Refusal."""
        return self._admitting.token(ids, now)

    def happens(self, key: int, word: Word) -> None:
        """What others find out about a subscription, written after what is being written."""
        self._moves.happens(key, word)

    # -- what a channel asks

    def subscriber(self, peer: Peer) -> Socket:
        return Socket(self, peer)

    def keys_of(self, how: How, value: str, peer: Peer) -> tuple[int, ...]:
        return self._admitting.keys_of(how, value, peer)

    def bind(self, key: int, socket: Socket) -> Bound:
        row = self._registry.get(key)
        assert row is not None, "asked in the same turn as `keys_of`"
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(row)
        elif line.bounds and line.composing is None:
            line.composing = Lock()
        position = line.sent
        if row.subscription.model is Model.CLASSIC:
            position = max(position, row.counted - 1)  # one `ping` makes up for all that were missed: it asks to query
        bound = Bound(key, socket, position, self._here.now())
        line.bounds[bound] = None
        if position < row.counted:  # what was missed is not spread again
            self._starts.catches_up(key, self._registry.topic_of(row.subscription))
        self._set_timer(row, line)
        return bound

    def leave(self, bound: Bound) -> None:
        line = self._lines.get(bound.key)
        if line is None:
            return
        line.bounds.pop(bound, None)
        if not line.bounds and line.sent == line.saved:
            del self._lines[bound.key]
        elif not line.bounds:
            self._unsaved[bound.key] = None

    def has_heard(self, bound: Bound) -> None:
        line = self._lines.get(bound.key)
        if line is not None and bound in line.bounds and bound.position > line.sent:
            line.sent = bound.position
            self._unsaved[bound.key] = None

    # -- what is told

    async def text_for(self, bound: Bound) -> str | None:
        try:
            return await self._text_for(bound)
        except StoreError as error:
            log.warning("events for a socket cannot be read now, it is tried again", error=str(error))
            self._look_again(bound.key, self._here.now() + AGAIN)
            return None

    async def _text_for(self, bound: Bound) -> str | None:
        while (row := self._registry.get(bound.key)) is not None and (line := self._lines.get(bound.key)) is not None:
            if bound.greets:
                text = await self._greeting(row)
                bound.greets = False
            elif row.counted > bound.position and row.life.sends:
                before = bound.position
                told = await self._events(row, line, before + 1)
                if bound.position != before:
                    continue  # it was sent back meanwhile
                if told is None:
                    return None
                text, bound.position = told
                if not text:
                    continue  # retention took those
            elif bound.beats and row.life.status in life.HEARTBEATING:
                text = await self._composed(row, Kind.HEARTBEAT)
            else:
                return None
            bound.spoken = self._here.now()
            if bound.beats:
                bound.beats = False
                self._set_timer(row, line)
            return text
        return None

    async def _greeting(self, row: Subscribed) -> str:
        if row.subscription.model is Model.CLASSIC:
            return binding.bound(row.subscription.id)
        return await self._composed(row, Kind.HANDSHAKE)

    async def _composed(self, row: Subscribed, kind: Kind) -> str:
        return (await self._composing.compose(row, kind)).body.decode()

    async def _events(self, row: Subscribed, line: Line, since: int) -> tuple[str, int] | None:
        """What to say of the events from a number on, and the last of them; "" where none of these is left, None where
        none of them may start yet."""
        if row.subscription.model is Model.CLASSIC:
            return binding.ping(row.subscription.id), since
        if line.composing is None:
            return await self._told(row, since)
        async with line.composing:
            of = (since, row.counted, row.version)
            if line.made is None or line.made[0] != of:
                told = await self._told(row, since)
                if told is None:
                    return None
                line.made = (of, told)
            return line.made[1]

    async def _told(self, row: Subscribed, since: int) -> tuple[str, int] | None:
        topic = self._registry.topic_of(row.subscription)
        start = self._starts.of(row.key, row.subscription.id, topic)  # S-57a
        if start > self._here.now():
            self._look_again(row.key, start)
            return None
        most = self._composing.most(row.subscription)
        until = min(row.counted, since + most - 1)
        async with self._reading:
            heard = await self._store.heard(row.key, since, until, most)
            if not heard:
                return "", until
            composed = await self._composing.compose(row, Kind.EVENT, heard)
        self._starts.has_started(row.key)
        if composed.last < row.counted:
            self._starts.catches_up(row.key, topic)
        return composed.body.decode(), composed.last

    # -- what changes

    def _changed(self, key: int) -> None:
        row, line = self._registry.get(key), self._lines.get(key)
        if row is not None and is_fed(row.subscription):
            self._consider(row, line)
        if line is None:
            return
        refusal = _ended(row)
        if row is None or refusal is not None:
            del self._lines[key]
            self._unsaved.pop(key, None)
            for bound in line.bounds:
                bound.socket.cut(refusal or Gone("The subscription was deleted.", id="subscription-ended"))
            return
        if row.sent < line.saved:  # $resend
            line.sent = row.sent
            for bound in line.bounds:
                bound.position = min(bound.position, row.sent)
        line.saved = row.sent
        greets = row.version != line.version
        line.version = row.version
        for bound in line.bounds:
            bound.greets = bound.greets or greets
            if bound.greets or row.counted > bound.position:
                bound.socket.wake(key)

    def _consider(self, row: Subscribed, line: Line | None) -> None:
        """What time or a client's word has brought about is written down, once at a time."""
        if row.key in self._moves:
            return  # it is looked at again then
        subscription, now = row.subscription, self._here.now()
        happening = schedule.overdue(subscription, row.life, now=now, policy=self._policy)
        if happening is None and row.life.status is Status.REQUESTED:
            happening = Happening.GREETED  # S-15: there is nobody to shake hands with before somebody binds
        if happening is not None:
            self._moves.happens(row.key, Word(happening))
        elif subscription.end is not None or row.life.status is Status.ERROR:
            self._set_timer(row, line)

    # -- what time brings

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._sooner.clear()
            self.tick()
            try:
                await self.save(SAVED_AT_ONCE)
            except StoreError as error:
                log.warning("how far sockets were told cannot be kept now, it is tried again", error=str(error))
            left = EVERY
            if (first := self._timers.first()) is not None:
                left = min(left, (first - self._here.now()).total_seconds())
            try:
                async with asyncio.timeout(max(left, 0.0)):
                    await self._sooner.wait()
            except TimeoutError:
                pass

    def tick(self) -> None:
        """What is due by now."""
        now = self._here.now()
        self._moves.try_again(now)
        for key in self._timers.due(now):
            row = self._registry.get(key)
            if row is not None and is_fed(row.subscription):
                self._look(row, now)

    def _look(self, row: Subscribed, now: datetime) -> None:
        line, heartbeat = self._lines.get(row.key), row.subscription.heartbeat
        self._consider(row, line)
        if line is None:
            return
        if line.again is not None and line.again <= now:
            line.again = None
        for bound in line.bounds:
            if heartbeat is not None and bound.spoken + heartbeat <= now:
                bound.beats = True
            if bound.beats or row.counted > bound.position:
                bound.socket.wake(row.key)
        self._set_timer(row, line)

    def _set_timer(self, row: Subscribed, line: Line | None) -> None:
        """It is looked at when time alone brings something."""
        quiet = msgspec.structs.replace(row.subscription, heartbeat=None) if row.subscription.heartbeat else None
        due = life.due(quiet or row.subscription, row.life, policy=self._policy)
        times = [due[0]] if due is not None and row.key not in self._moves else []
        if line is not None:
            if line.again is not None:
                times.append(line.again)
            if row.subscription.heartbeat is not None:
                # who has not read its heartbeat yet needs no other
                times += [bound.spoken + row.subscription.heartbeat for bound in line.bounds if not bound.beats]
        first = self._timers.first()
        self._timers.set(row.key, min(times, default=None))
        if times and (first is None or min(times) < first):
            self._sooner.set()

    def _look_again(self, key: int, at: datetime) -> None:
        line, row = self._lines.get(key), self._registry.get(key)
        if line is not None and row is not None:
            line.again = at if line.again is None else min(line.again, at)
            self._set_timer(row, line)

    # -- how far it was told

    async def stop(self) -> None:
        """All that is known is written: nobody is told anything any more."""
        with contextlib.suppress(StoreError):  # what was told since the last time is told again
            await self.save()

    async def save(self, most: int | None = None) -> None:
        """Writes how far some of those were told that went on; all of them without a number. Raises StoreError."""
        keys = list(self._unsaved)[:most]
        moves = []
        for key in keys:
            del self._unsaved[key]
            line = self._lines.get(key)
            if line is not None:
                moves.append((key, line.sent, self._store.move(key, None, sent=line.sent)))
        failed: StoreError | None = None
        for key, sent, move in moves:
            try:
                self._saved(key, sent, await move)
            except StoreError as error:
                self._unsaved[key] = None
                failed = error
        if failed is not None:
            raise failed

    def _saved(self, key: int, sent: int, moved: Subscribed | None) -> None:
        line, row = self._lines.get(key), self._registry.get(key)
        if line is None or row is None or moved is None:
            return
        line.saved = sent
        if not line.bounds and line.sent == sent:
            del self._lines[key]
        self._registry.put(msgspec.structs.replace(row, sent=sent))


def _ended(row: Subscribed | None) -> Refusal | None:
    """Why nobody listens to it any more (S-44)."""
    if row is None:
        return Gone("The subscription was deleted.", id="subscription-ended")
    if not is_fed(row.subscription):
        return Gone("The subscription is told over another channel now.", id="subscription-ended")
    if row.life.status in ENDED:
        return Gone(f"The subscription is {row.life.status.value}.", id="subscription-ended")
    return None

"""What happens to subscriptions, written down: one after the other for each, in the order in which it happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from broker.core.subscription.life import Happening, Life, Policy, after, heartbeat_sent
from broker.core.subscription.subscription import Status
from broker.flow.here import Here
from broker.flow.subscribing.registry import Registry
from broker.store.telling import Subscribed, Telling

log = structlog.get_logger("broker.subscriptions")

LATER = timedelta(seconds=5)  # when what could not be written is tried again
LONGEST = 500  # characters of an error: it stands in each notification
MEANT = {  # what a client that writes a status wants to happen
    Status.REQUESTED: Happening.ASKED,
    Status.OFF: Happening.SWITCHED_OFF,
    Status.ENTERED_IN_ERROR: Happening.WITHDRAWN,
}


class Word(msgspec.Struct, frozen=True, kw_only=False):
    """Something that happened to a subscription."""

    happening: Happening | None
    error: str = ""
    sent: int | None = None  # up to here it is told
    ended: int | None = None  # position of the notification that is under way no longer
    beat: bool = False  # that was a heartbeat


class Moves:
    def __init__(
        self, *, here: Here, telling: Telling, registry: Registry, policy: Policy, moved: Callable[[int], None]
    ) -> None:
        self._here = here
        self._telling = telling
        self._registry = registry
        self._policy = policy
        self._moved = moved  # told of a key when all that happened to it is written
        self._words: dict[int, list[Word]] = {}  # by key: what waits behind the one that is being written
        self._later: list[tuple[datetime, int, Word]] = []
        self.under_way = 0

    def __contains__(self, key: int) -> bool:
        return key in self._words

    def happens(self, key: int, word: Word) -> None:
        waiting = self._words.get(key)
        if waiting is not None:
            waiting.append(word)
        else:
            self._words[key] = []
            self._write(key, word)

    def try_again(self, now: datetime) -> None:
        """What the store could not take before."""
        due = [(key, word) for at, key, word in self._later if at <= now]
        self._later = [one for one in self._later if one[0] > now]
        for key, word in due:
            self._write(key, word)

    def _write(self, key: int, word: Word) -> None:
        row = self._registry.get(key)
        if row is None:
            del self._words[key]
            self._moved(key)
            return
        life = self._life(row, word)
        if life == row.life and word.sent is None and word.ended is None:
            self._next(key)
            return
        self.under_way += 1
        future = self._telling.move(key, life, sent=word.sent, ended=word.ended)
        future.add_done_callback(lambda done: self._written(key, row, word, done))

    def _life(self, row: Subscribed, word: Word) -> Life:
        now, life = self._here.now(), row.life
        if word.happening is not None:
            life = after(
                life, word.happening, now=now, model=row.subscription.model, policy=self._policy,
                error=word.error[:LONGEST],
            )  # fmt: skip
        return heartbeat_sent(life, now=now) if word.beat else life

    def _written(self, key: int, before: Subscribed, word: Word, done: asyncio.Future[Subscribed | None]) -> None:
        self.under_way -= 1
        if done.cancelled() or done.exception() is not None:
            log.warning("what became of a subscription cannot be written; it is tried again", id=before.subscription.id)
            self._later.append((self._here.now() + LATER, key, word))
            return
        row = done.result()
        now = self._registry.get(key)
        if row is None or now is None:
            self._words.pop(key, None)
            self._moved(key)
            return
        if row.life.status is not before.life.status:
            log.info("subscription", id=row.subscription.id, status=row.life.status.value, error=row.life.error)
        # the teller may have given numbers that this row does not know yet
        self._registry.put(msgspec.structs.replace(row, counted=max(row.counted, now.counted)))
        if row.version != before.version and row.subscription.status in MEANT:
            # its client wrote it meanwhile: what it meant goes before what we made of it
            self._words[key].insert(0, Word(MEANT[row.subscription.status]))
        self._next(key)

    def _next(self, key: int) -> None:
        waiting = self._words[key]
        if waiting:
            self._write(key, waiting.pop(0))
        else:
            del self._words[key]
            self._moved(key)

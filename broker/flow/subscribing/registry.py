"""All subscriptions in memory, as the store has them: found by key, by id, and by what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import structlog

from broker.core.subscription import query
from broker.core.subscription.matching import Subscribers
from broker.core.subscription.occurrence import Occurrence, Topics, topic_of
from broker.core.subscription.query import Aliases
from broker.core.subscription.subscription import Model, Subscription
from broker.core.subscription.topic import Topic, answers_to
from broker.store.telling import Subscribed

log = structlog.get_logger("broker.subscriptions")

Changed = Callable[[int], None]  # told of a key whose subscription, life or numbers have changed, or that is gone


class Registry:
    """Whoever changes a subscription in the store puts what came of it here, once it is on disk."""

    def __init__(self, topics: Sequence[Topic]) -> None:
        self._configured = tuple(topics)
        self._by_key: dict[int, Subscribed] = {}
        self._keys: dict[str, int] = {}  # by id
        self._classic: dict[str, int] = {}  # types that classic Subscriptions search, and how many do
        self._listeners: list[Changed] = []
        self._subscribers = Subscribers()
        self.topics = Topics(self._configured)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Subscribed]:
        return iter(tuple(self._by_key.values()))

    # -- who is there

    def load(self, rows: Iterable[Subscribed]) -> None:
        for row in rows:
            self.put(row)

    def put(self, row: Subscribed) -> None:
        """What the store has now; one that cannot be matched any more (its topic is gone) hears of nothing."""
        before = self._by_key.get(row.key)
        if before is not None and before.counted > row.counted:  # events were told while this was on its way
            row = msgspec.structs.replace(row, counted=before.counted)
        if before is None or before.subscription != row.subscription or before.life.counts != row.life.counts:
            self._forget(row.key)
            self._remember(row)
        else:
            self._by_key[row.key] = row
        self._tell(row.key)

    def count(self, numbers: Mapping[int, int]) -> None:
        """The highest event number of each key, where it has grown: nothing else of the subscription has changed."""
        rows = self._by_key
        for key, number in numbers.items():
            row = rows.get(key)
            if row is not None and number > row.counted:
                rows[key] = msgspec.structs.replace(row, counted=number)
                self._tell(key)

    def drop(self, key: int) -> None:
        self._forget(key)
        self._tell(key)

    def get(self, key: int) -> Subscribed | None:
        return self._by_key.get(key)

    def find(self, id: str) -> Subscribed | None:
        key = self._keys.get(id)
        return None if key is None else self._by_key[key]

    def on_change(self, listener: Changed) -> None:
        self._listeners.append(listener)

    def _tell(self, key: int) -> None:
        for listener in self._listeners:
            listener(key)

    def _remember(self, row: Subscribed) -> None:
        subscription = row.subscription
        self._by_key[row.key] = row
        self._keys[subscription.id] = row.key
        if not row.life.counts:
            return
        topic = self.topic_of(subscription)
        if topic is None:
            log.warning("a subscription is to a topic that is not there any more", id=subscription.id)
            return
        try:
            self._subscribers.add(subscription, topic)
        except query.NotEvaluable as error:
            log.warning("a subscription asks for what its topic does not allow any more", id=subscription.id,
                        error=str(error))  # fmt: skip
            return
        if subscription.model is Model.CLASSIC:
            self._count_classic(query.parse(subscription.criteria).resource, 1)

    def _forget(self, key: int) -> None:
        row = self._by_key.pop(key, None)
        if row is None:
            return
        id = row.subscription.id
        del self._keys[id]
        if id in self._subscribers:
            self._subscribers.remove(id)
            if row.subscription.model is Model.CLASSIC:
                self._count_classic(query.parse(row.subscription.criteria).resource, -1)

    def _count_classic(self, type: str, more: int) -> None:
        before = set(self._classic)
        self._classic[type] = self._classic.get(type, 0) + more
        if not self._classic[type]:
            del self._classic[type]
        if before != set(self._classic):
            self.topics = Topics((*self._configured, *map(topic_of, sorted(self._classic))))

    @property
    def anybody_hears(self) -> bool:
        """Whether an event could concern anybody now."""
        return len(self._subscribers) > 0

    # -- topics

    def topic(self, canonical: str) -> Topic | None:
        """The configured topic that a canonical, with or without `|version`, means."""
        return next((one for one in self._configured if answers_to(one, canonical)), None)

    def topic_of(self, subscription: Subscription) -> Topic | None:
        if subscription.model is Model.CLASSIC:
            return topic_of(query.parse(subscription.criteria).resource)
        return self.topic(subscription.topic)

    @property
    def configured(self) -> tuple[Topic, ...]:
        return self._configured

    # -- who hears

    def hearing(self, occurrence: Occurrence, aliases: Aliases = lambda reference: ()) -> tuple[int, ...]:
        """The keys of those that an occurrence is for and that count events now (S-17)."""
        return tuple([self._keys[id] for id in self._subscribers.hearing(occurrence, aliases)])

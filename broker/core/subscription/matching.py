"""Finds the subscriptions that hear of an occurrence: by topic, then by the value they filter for, in one look-up each.

What remains of a subscription's filters is tested once per distinct filter, however many subscriptions have it.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.subscription import query
from broker.core.subscription.elements import Values
from broker.core.subscription.occurrence import Occurrence
from broker.core.subscription.parameters import Definition
from broker.core.subscription.query import Aliases, Condition
from broker.core.subscription.subscription import Subscription
from broker.core.subscription.topic import FilterBy, Topic

Rest = tuple[Condition, ...]  # what is to be tested besides the value that it was found by
Bucket = dict[str, Rest]  # by the id of the subscription
Shared = tuple[str, str, tuple[tuple[str, Definition], ...]]  # what filters with one index have in common


class _Index:
    """Subscriptions that filter by one parameter for equality, by the values they want."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition  # any of them: they differ in their values only
        self.by_value: dict[str, Bucket] = {}
        self.all: Bucket = {}


class _OfTopic:
    """The subscriptions of one topic."""

    def __init__(self) -> None:
        self.plain: Bucket = {}
        self.indexes: dict[Shared, _Index] = {}


class Subscribers:
    """All subscriptions, found by occurrence. Adding and removing cost the same however many there are."""

    def __init__(self) -> None:
        self._of_topic: dict[tuple[str, str], _OfTopic] = {}
        self._where: dict[str, tuple[tuple[str, str], tuple[Condition, ...]]] = {}
        self._same = _Same()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, id: str) -> bool:
        return id in self._where

    def add(self, subscription: Subscription, topic: Topic) -> None:
        """Take a subscription in, or anew; raises `query.NotEvaluable` for filters that the check refuses."""
        conditions = tuple(_conditions(subscription, topic))
        self.remove(subscription.id)
        conditions = self._same.take(conditions)
        place = (topic.url, topic.version)
        self._where[subscription.id] = (place, conditions)
        of_topic = self._of_topic.setdefault(place, _OfTopic())
        first = next((one for one in conditions if one.keys is not None), None)
        if first is None:
            of_topic.plain[subscription.id] = conditions
            return
        rest = tuple(one for one in conditions if one is not first)
        index = of_topic.indexes.setdefault(_shared(first), _Index(first))
        index.all[subscription.id] = rest
        for value in first.keys or ():
            index.by_value.setdefault(value, {})[subscription.id] = rest

    def remove(self, id: str) -> None:
        """Forget a subscription; one that is not known is no error."""
        place, conditions = self._where.pop(id, (("", ""), ()))
        of_topic = self._of_topic.get(place)
        if of_topic is None:
            return
        of_topic.plain.pop(id, None)
        first = next((one for one in conditions if one.keys is not None), None)
        if first is not None:
            index = of_topic.indexes[_shared(first)]
            del index.all[id]
            for value in set(first.keys or ()):
                bucket = index.by_value[value]
                del bucket[id]
                if not bucket:
                    del index.by_value[value]
            if not index.all:
                del of_topic.indexes[_shared(first)]
        if not of_topic.plain and not of_topic.indexes:
            del self._of_topic[place]
        self._same.release(conditions)

    def hearing(self, occurrence: Occurrence, aliases: Aliases = lambda reference: ()) -> list[str]:
        """The ids of the subscriptions that an occurrence is for, each once."""
        of_topic = self._of_topic.get((occurrence.topic.url, occurrence.topic.version))
        if of_topic is None:
            return []
        values = occurrence.values
        tested: dict[int, bool] = {}
        found = list(_passing(of_topic.plain, values, aliases, tested))
        for index in of_topic.indexes.values():
            definition = index.condition.definition(values.get("resourceType", ""))
            if definition is None:  # the filter is about another type of this topic's foci
                found += _passing(index.all, values, aliases, tested)
                continue
            at = query.values_at(values, definition)
            keys = query.keys_of(definition, at, aliases, by_identifier=index.condition.modifier == "identifier")
            if len(keys) == 1:
                found += _passing(index.by_value.get(next(iter(keys)), {}), values, aliases, tested)
                continue
            several: Bucket = {}  # a subscription may want more than one of the values
            for key in keys:
                several |= index.by_value.get(key, {})
            found += _passing(several, values, aliases, tested)
        return found


def _conditions(subscription: Subscription, topic: Topic) -> Iterable[Condition]:
    types = topic.focus_types
    for one in subscription.filters:
        allowed = topic.filter_by(one.parameter, one.resource_type) or FilterBy(parameter=one.parameter)
        yield query.condition_of(one, allowed, types)


class _Same:
    """One object for equal filters, as long as somebody has them: so that each is tested once."""

    def __init__(self) -> None:
        self._known: dict[Condition, list[Condition]] = {}  # as many as have it

    def take(self, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        found = []
        for one in conditions:
            holders = self._known.setdefault(one, [])
            holders.append(holders[0] if holders else one)
            found.append(holders[0])
        return tuple(found)

    def release(self, conditions: tuple[Condition, ...]) -> None:
        for one in conditions:
            holders = self._known[one]
            holders.pop()
            if not holders:
                del self._known[one]


def _shared(condition: Condition) -> Shared:
    return condition.parameter, condition.modifier, condition.where


def _passing(bucket: Bucket, values: Values, aliases: Aliases, tested: dict[int, bool]) -> Iterable[str]:
    """Those whose remaining filters hold; `tested` remembers the answer of each filter for this occurrence."""
    for name, rest in bucket.items():
        for condition in rest:
            holds = tested.get(id(condition))  # equal filters are one object
            if holds is None:
                holds = tested[id(condition)] = condition.holds(values, aliases)
            if not holds:
                break
        else:
            yield name

"""Finds the subscriptions that hear of an occurrence: by topic, then by the value they filter for, in one look-up each.

What remains of their filters is tested once for all subscriptions that have the same remaining.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.subscription import query
from broker.core.subscription.elements import Values
from broker.core.subscription.occurrence import Occurrence
from broker.core.subscription.parameters import Definition
from broker.core.subscription.query import Aliases, Condition, Facts
from broker.core.subscription.subscription import Model, Subscription
from broker.core.subscription.topic import FilterBy, Topic

Rest = tuple[Condition, ...]  # what is to be tested besides the value that a subscription was found by
Bucket = dict[Rest, dict[str, None]]  # the ids of subscriptions, by what remains to be tested; a dict for its order
Shared = tuple[str, str, tuple[tuple[str, Definition], ...]]  # what filters of one index have in common


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

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, id: str) -> bool:
        return id in self._where

    def add(self, subscription: Subscription, topic: Topic) -> None:
        """Take a subscription in, or anew; raises `query.NotEvaluable` for filters that the check refuses.

        Of a classic one the topic is `occurrence.topic_of` the type it searches.
        """
        conditions = tuple(_conditions(subscription, topic))
        id, place = subscription.id, (topic.url, topic.version)
        self.remove(id)
        self._where[id] = (place, conditions)
        of_topic = self._of_topic.setdefault(place, _OfTopic())
        first, rest = _parted(conditions)
        if first is None:
            _put(of_topic.plain, rest, id)
            return
        index = of_topic.indexes.setdefault(_shared(first), _Index(first))
        _put(index.all, rest, id)
        for value in first.keys or ():
            _put(index.by_value.setdefault(value, {}), rest, id)

    def remove(self, id: str) -> None:
        """Forget a subscription; one that is not known is no error."""
        if id not in self._where:
            return
        place, conditions = self._where.pop(id)
        of_topic = self._of_topic[place]
        first, rest = _parted(conditions)
        if first is None:
            _take(of_topic.plain, rest, id)
        else:
            index = of_topic.indexes[_shared(first)]
            _take(index.all, rest, id)
            for value in set(first.keys or ()):
                _take(index.by_value[value], rest, id)
                if not index.by_value[value]:
                    del index.by_value[value]
            if not index.all:
                del of_topic.indexes[_shared(first)]
        if not of_topic.plain and not of_topic.indexes:
            del self._of_topic[place]

    def hearing(self, occurrence: Occurrence, aliases: Aliases = lambda reference: ()) -> list[str]:
        """The ids of the subscriptions that an occurrence is for, each once."""
        of_topic = self._of_topic.get((occurrence.topic.url, occurrence.topic.version))
        if of_topic is None:
            return []
        asking = _Asking(occurrence.values, aliases)
        for bucket in (of_topic.plain, *_found(of_topic, asking)):
            asking.take(bucket)
        return list(asking.found)


class _Asking:
    """One question: each place of the resource is read once, each subscription found once."""

    def __init__(self, values: Values, aliases: Aliases) -> None:
        self.values, self.aliases = values, aliases
        self.type = values.get("resourceType", "")
        self.found: dict[str, None] = {}  # a subscription may want more than one of several values
        self._facts: dict[tuple[int, str], Facts | None] = {}  # by the place, which filters share, and the modifier

    def take(self, bucket: Bucket) -> None:
        for rest, ids in bucket.items():
            for condition in rest:
                facts = self.facts_for(condition)
                if facts is not None and not condition.meets(facts):
                    break
            else:
                self.found |= ids

    def facts_for(self, condition: Condition) -> Facts | None:
        """What the resource says where the condition looks; None where it is about another type."""
        key = (id(condition.where), condition.modifier)
        try:
            return self._facts[key]
        except KeyError:
            definition = condition.definition(self.type)
            facts = None if definition is None else condition.facts(definition, self.values, self.aliases)
            self._facts[key] = facts
            return facts


def _found(of_topic: _OfTopic, asking: _Asking) -> Iterable[Bucket]:
    """The buckets of those whose value the resource has."""
    for index in of_topic.indexes.values():
        facts = asking.facts_for(index.condition)
        if facts is None:  # the filter is about another type of this topic's foci
            yield index.all
            continue
        for key in facts.keys:
            bucket = index.by_value.get(key)
            if bucket is not None:
                yield bucket


def _conditions(subscription: Subscription, topic: Topic) -> Iterable[Condition]:
    if subscription.model is Model.CLASSIC:
        yield from query.parse(subscription.criteria).conditions
        return
    types = topic.focus_types
    for one in subscription.filters:
        allowed = topic.filter_by(one.parameter, one.resource_type) or FilterBy(parameter=one.parameter)
        yield query.condition_of(one, allowed, types)


def _parted(conditions: tuple[Condition, ...]) -> tuple[Condition | None, Rest]:
    """The filter that a subscription is found by, and the others."""
    for place, one in enumerate(conditions):
        if one.keys is not None:
            return one, conditions[:place] + conditions[place + 1 :]
    return None, conditions


def _shared(condition: Condition) -> Shared:
    return condition.parameter, condition.modifier, condition.where


def _put(bucket: Bucket, rest: Rest, id: str) -> None:
    bucket.setdefault(rest, {})[id] = None


def _take(bucket: Bucket, rest: Rest, id: str) -> None:
    ids = bucket[rest]
    del ids[id]
    if not ids:
        del bucket[rest]

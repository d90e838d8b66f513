"""Finds what a topic tells of in a message (S-57): by its event, and by the resources inside and what is done to them.

A message that no topic can concern costs a look-up of its event and, where a topic asks for resources of a type, one
search of its bytes for each of these; only then is it taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from broker.core.fhir.header import Format, Header
from broker.core.subscription import query
from broker.core.subscription.content import Content, Entry
from broker.core.subscription.elements import Values
from broker.core.subscription.notification import MARK
from broker.core.subscription.parameters import Kind, definition_of
from broker.core.subscription.topic import EventTrigger, Interaction, ResourceTrigger, Shape, Topic, answers_to

ANY = "*"  # of an event trigger: every event
CLASSIC = "urn:x-fhir-broker:classic:"  # before a type, the URL of the topic of classic Subscriptions to it
MOST_ITERATIONS = 8  # of `&iterate=`: links that go in circles end anyhow, long chains are nobody's notification


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """Something a topic tells of: one focus, what was done to it, what goes along."""

    topic: Topic
    focus: Entry | None  # None: the message itself
    header: Header
    interaction: Interaction | None = None
    more: tuple[Entry, ...] = ()

    @property
    def values(self) -> Values:
        """What filters look at."""
        if self.focus is not None:
            return self.focus.values
        identifier = self.header.bundle_identifier
        about = {} if identifier is None else {"system": identifier.system, "value": identifier.value}
        return {"resourceType": "Bundle", "identifier": about, "type": "message", "timestamp": self.header.timestamp}


class Topics:
    """All topics, found by what happens."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self.topics = tuple(topics)
        self._by_event: dict[str, list[tuple[Topic, EventTrigger]]] = {}
        self._by_type: dict[str, list[tuple[Topic, ResourceTrigger]]] = {}
        for topic in self.topics:
            for event in topic.events:
                self._by_event.setdefault(event.event, []).append((topic, event))
            for resource in topic.resources:
                self._by_type.setdefault(resource.resource, []).append((topic, resource))
        self._told_by_others = tuple(topic for topic in self.topics if not topic.url.startswith(CLASSIC))
        self._by_way_in = {topic.way_in: topic for topic in self.topics if topic.way_in}
        self._interactions = {id(topic): dict(topic.interactions) for topic in self.topics}
        self._names = tuple(name.encode() for name in self._by_type)
        self._quoted = tuple(b'"%b"' % name for name in self._names)

    def may_concern(self, event: str, format: Format, body: bytes) -> bool:
        """Whether it is worth looking into a message; no only where no topic can have to do with it.

        The event is `system|code`, or the code alone.
        """
        if self._may_concern_event(event):
            return True
        # each a search of a microsecond: of the types whose name is nowhere, there is no resource
        if self._told_by_others and MARK in body:
            return True
        if not self._names:
            return False
        is_escaped = b"\\" in body and b"\\u00" in body  # the first look is the quickest of all
        if format is Format.JSON and not is_escaped and b"DELETE" not in body:
            return any(name in body for name in self._quoted)
        return is_escaped or any(name in body for name in self._names)

    def may_concern_types(self, event: str, types: Iterable[str]) -> bool:
        """The same of a message whose entries are known, and that is no notification."""
        return self._may_concern_event(event) or not self._by_type.keys().isdisjoint(types)

    def _may_concern_event(self, event: str) -> bool:
        by_event = self._by_event
        return bool(by_event) and (event in by_event or ANY in by_event or event.partition("|")[2] in by_event)

    def told_by_others(self, canonical: str, way_in: str | None) -> Topic | None:
        """The topic that a notification of another server is of; which need not be one that we know."""
        if canonical:
            return next((one for one in self._told_by_others if answers_to(one, canonical)), None)
        return self._by_way_in.get(way_in) if way_in else None

    def occurrences(self, content: Content) -> list[Occurrence]:
        """All that the topics tell of in a message, each focus of each topic once."""
        found: list[Occurrence] = []
        seen: set[tuple[int, int]] = set()
        for occurrence in (*self._of_event(content), *self._of_resources(content)):
            key = (id(occurrence.topic), id(occurrence.focus))
            if key not in seen:
                seen.add(key)
                found.append(occurrence)
        return found

    def _of_event(self, content: Content) -> Iterator[Occurrence]:
        event = content.header.event
        for name in dict.fromkeys((str(event), event.code, ANY)):
            for topic, trigger in self._by_event.get(name, ()):
                foci = _foci(trigger, content)
                if foci is None:
                    continue
                first = next((one for one in foci if _holds(trigger, one, content)), None)
                if foci and first is None:
                    continue  # it is about another resource than the rule asks for
                also = tuple(one for one in foci if one is not first)
                interaction = None if first is None else self._interaction(topic, first, content) or Interaction.UPDATE
                more = also if first is None else (*also, *sent_along(topic, first, content, besides=also))
                yield Occurrence(topic=topic, focus=first, header=content.header, interaction=interaction, more=more)

    def _of_resources(self, content: Content) -> Iterator[Occurrence]:
        named: list[Entry] | None = None
        for entry in content.entries[1:]:
            for topic, trigger in self._by_type.get(entry.type, ()):
                if trigger.only_focus:
                    named = content.focus() if named is None else named
                    if not any(one is entry for one in named):
                        continue
                interaction = self._interaction(topic, entry, content)
                if interaction is None:
                    allowed = [one for one in trigger.interactions if one is not Interaction.DELETE]
                    if not allowed:
                        continue
                    interaction = Interaction.UPDATE if Interaction.UPDATE in allowed else Interaction.CREATE
                elif interaction not in trigger.interactions:
                    continue
                if interaction in trigger.unconditional or _holds(trigger, entry, content):
                    more = tuple(sent_along(topic, entry, content))
                    yield Occurrence(
                        topic=topic, focus=entry, header=content.header, interaction=interaction, more=more
                    )

    def _interaction(self, topic: Topic, entry: Entry, content: Content) -> Interaction | None:
        """What is done to a resource: its entry says so, or the event of the message does."""
        if entry.interaction is not None:
            return entry.interaction
        known = self._interactions[id(topic)]
        return known.get(str(content.header.event)) or known.get(content.header.event.code)


def _foci(trigger: EventTrigger, content: Content) -> list[Entry] | None:
    """The resources an event is about; empty for the message itself, None where it has none of the type."""
    if trigger.focus == "Bundle":
        return []
    if trigger.focus == "MessageHeader":
        return list(content.entries[:1]) or None
    named = content.focus()
    if not trigger.focus:
        return named
    return (
        [entry for entry in named if entry.type == trigger.focus]
        or [entry for entry in content.entries[1:] if entry.type == trigger.focus]
        or None
    )


def _holds(trigger: EventTrigger | ResourceTrigger, entry: Entry, content: Content) -> bool:
    return all(one.holds(entry.values, content.aliases) for one in trigger.conditions) and (
        trigger.path is None or trigger.path.holds(entry.values)
    )


# --- what goes along ---


def sent_along(topic: Topic, focus: Entry, content: Content, besides: Iterable[Entry] = ()) -> Iterator[Entry]:
    """The entries of the message that the topic's shape asks for beside a focus, each once."""
    done = {id(focus), *(id(one) for one in besides)}
    for shape in topic.shapes:
        if shape.resource in (focus.type, "*"):
            for entry in _shaped(shape, focus, content):
                if id(entry) not in done:
                    done.add(id(entry))
                    yield entry


def _shaped(shape: Shape, focus: Entry, content: Content) -> Iterator[Entry]:
    for include in shape.include:
        first, *iterated = include.split("&iterate=")
        found = _referred(focus, first, content)
        yield from found
        for step in iterated:
            yield from _iterated(found, step.replace(".", ":"), content)
    for include in shape.rev_include:
        type, _, parameter = include.partition(":")
        for entry in content.entries[1:]:
            if entry.type == type and any(one is focus for one in _referred(entry, f"{type}:{parameter}", content)):
                yield entry


def _iterated(found: list[Entry], step: str, content: Content) -> Iterator[Entry]:
    seen = {id(one) for one in found}
    for _ in range(MOST_ITERATIONS):
        found = [one for before in found for one in _referred(before, step, content) if id(one) not in seen]
        if not found:
            return
        seen.update(id(one) for one in found)
        yield from found


def _referred(entry: Entry, include: str, content: Content) -> list[Entry]:
    """What an entry refers to by a search parameter, `Encounter:patient`, as far as it is in the message."""
    type, _, parameter = include.partition(":")
    parameter, _, target = parameter.partition(":")
    definition = definition_of(type, parameter) if type == entry.type else None
    if definition is None or definition.kind is not Kind.REFERENCE:
        return []
    found = []
    for value in query.values_at(entry.values, definition):
        written = value.get("reference") if isinstance(value, dict) else value
        other = content.find(written) if isinstance(written, str) else None
        if other is not None and (target or definition.target) in ("", other.type):
            found.append(other)
    return found


# --- R4's classic model ---


def topic_of(resource: str) -> Topic:
    """The topic that the classic Subscriptions to one type share; their search strings are their filters.

    Created and updated resources: deletes notify nobody (S-41).
    """
    trigger = ResourceTrigger(resource=resource, interactions=(Interaction.CREATE, Interaction.UPDATE))
    return Topic(url=CLASSIC + resource, resources=(trigger,))

"""What may be subscribed to: a topic, its triggers, the filters it allows and the shape of what is told (S-55)."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from broker.core.subscription.fhirpath import Path
    from broker.core.subscription.query import Condition


class Interaction(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


ALL_INTERACTIONS = tuple(Interaction)


class EventTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """A message event: its code, or `system|code`; `*` where it stands alone is every event."""

    event: str
    focus: str = ""  # type of the focus; "" = what MessageHeader.focus names, "Bundle" = the message itself
    conditions: tuple[Condition, ...] = ()  # over the focus
    path: Path | None = None
    where: str = ""  # the conditions as they were written


class ResourceTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of this type inside a message, and what is done to it.

    A message says that by `Bundle.entry.request.method`, or its event says it (`Topic.interactions`); where neither
    does, the resource is taken for created or updated, never for deleted.
    """

    resource: str
    interactions: tuple[Interaction, ...] = ALL_INTERACTIONS
    conditions: tuple[Condition, ...] = ()  # over the resource as it is in the message
    path: Path | None = None
    unconditional: tuple[Interaction, ...] = ()  # here the rules are not asked: what they test is not there (S-56)
    only_focus: bool = False  # whether only what MessageHeader.focus names counts, and no other entry
    where: str = ""  # the conditions as they were written


class FilterBy(msgspec.Struct, frozen=True, kw_only=True):
    """A filter that subscribers may use."""

    parameter: str
    resource: str = ""  # "" = of any focus of the topic
    comparators: tuple[str, ...] = ()  # empty = as the parameter's type has them
    modifiers: tuple[str, ...] = ()
    description: str = ""
    definition: str = ""  # canonical of a SearchParameter; shown, never fetched
    paths: tuple[str, ...] = ()  # own: where the values stand, as dotted element paths; empty = as the table says
    type: str = ""  # own: with `paths`: token, reference, string, date, number, quantity or uri


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What else goes with a focus of this type: what it refers to in the same message, or what refers to it."""

    resource: str
    include: tuple[str, ...] = ()  # as in searches: Encounter:patient, Encounter:patient&iterate=Patient.link
    rev_include: tuple[str, ...] = ()


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    version: str = ""
    title: str = ""
    description: str = ""
    status: str = "active"
    events: tuple[EventTrigger, ...] = ()
    resources: tuple[ResourceTrigger, ...] = ()
    interactions: tuple[tuple[str, Interaction], ...] = ()  # what an event means for the resources of its message
    filters: tuple[FilterBy, ...] = ()
    shapes: tuple[Shape, ...] = ()
    query: str = ""  # what a subscriber asks the data source for, `{since}` being the time (S-57a)
    spread: timedelta = timedelta()  # notifications of one event start evenly over this time
    relayed: bool = False  # other servers tell of it; what passes through is told on as it came (S-24)
    source_rate: float = 0.0  # most starts a second for the sake of the data source; 0 = no limit
    way_in: str = ""  # relayed: /in/NAME, by which notifications come that do not name their topic (S-23)
    source: bytes = b""  # the resource as it was written, where it was one; shown again as it is

    @property
    def focus_types(self) -> frozenset[str]:
        """The types that a focus of this topic may have; empty where it may be any."""
        if any(not trigger.focus for trigger in self.events):
            return frozenset()
        return frozenset(one.resource for one in self.resources) | frozenset(one.focus for one in self.events)

    def filter_by(self, parameter: str, resource: str = "") -> FilterBy | None:
        """What the topic says of a filter; None where it does not allow it."""
        for one in self.filters:
            if one.parameter == parameter and (not resource or one.resource in ("", resource)):
                return one
        return None

    def offers_content_free(self) -> bool:
        """Whether a subscriber that is told nothing can ask for what changed (S-57a)."""
        return "{since}" in self.query


def answers_to(topic: Topic, canonical: str) -> bool:
    """Whether a canonical, with or without `|version`, means this topic."""
    url, _, version = canonical.partition("|")
    return url == topic.url and (not version or version == topic.version)

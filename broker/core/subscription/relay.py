"""Notifications of other servers that pass through: which topic of ours they are of, and what filters see of them.

They are told as they came, bytes and numbers (S-24): a notification is one event here, however many it tells of.
"""

from __future__ import annotations

import msgspec

from broker.core.fhir.header import Header
from broker.core.subscription.content import Entry, opened
from broker.core.subscription.foreign import Foreign, Package, read_notification
from broker.core.subscription.notification import Kind
from broker.core.subscription.occurrence import Occurrence, Topics
from broker.core.subscription.subscription import Content
from broker.core.subscription.topic import Topic


class Relayed(msgspec.Struct, frozen=True, kw_only=True):
    """A notification of another server, and the topic of ours that it is of."""

    topic: Topic
    foreign: Foreign
    content: Content  # how much it tells: nobody is told more than is theirs (S-63)
    occurrences: tuple[Occurrence, ...]  # what filters may look at: each focus that is inside

    @property
    def is_event(self) -> bool:
        """Handshakes and heartbeats are between that server and us; answers to queries are whoever's that asked."""
        return self.foreign.kind == Kind.EVENT

    def about(self, header: Header) -> Occurrence:
        """The notification itself: what those hear of who want all of the topic."""
        return Occurrence(topic=self.topic, focus=None, header=header)


def relayed(body: bytes, header: Header, topics: Topics, *, way_in: str | None = None) -> Relayed | None:
    """What passes through, if it is a notification of a topic of ours.

    A notification need not name its topic (S-23): then the way it came in by tells, where the configuration says so.
    """
    foreign = read_notification(body, format=header.format, release=header.release)
    if foreign is None:
        return None
    topic = topics.told_by_others(foreign.topic, way_in)
    if topic is None:
        return None
    inside = opened(foreign.body, format=header.format, release=header.release).entries
    about = inside[2:] if foreign.package is Package.SPLICED else inside[1:]
    foci = [one for one in about if one.raw and one.is_meant_by(foreign.focus)]
    return Relayed(
        topic=topic,
        foreign=foreign,
        content=_content(foreign, about),
        occurrences=tuple([Occurrence(topic=topic, focus=focus, header=header) for focus in foci]),
    )


def _content(foreign: Foreign, about: tuple[Entry, ...]) -> Content:
    if any(one.raw for one in about):
        return Content.FULL
    return Content.ID_ONLY if foreign.focus or about else Content.EMPTY

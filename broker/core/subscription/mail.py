"""A notification in words, for the body of a mail: no more than the content level allows (S-45)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from broker.core.fhir.media import MediaType, media_type
from broker.core.fhir.write import instant
from broker.core.fhir.xml_writer import escape
from broker.core.subscription.notification import About, Carried, Event, Kind
from broker.core.subscription.subscription import Content

_FORM = re.compile(r'text/(plain|html)(?:\s*;\s*attach\s*=\s*(?:"([^"]+)"|([^"]+)))?', re.IGNORECASE)
MOST = 50  # events in words; the attachment has all
_SAYS = {
    Kind.HANDSHAKE: "A subscription was set up to tell you of events. If you did not ask for it, tell its operator.",
    Kind.HEARTBEAT: "Nothing has happened since the last message; the subscription is alive.",
    Kind.EVENT: "Something happened that you have subscribed to.",
    Kind.QUERY_STATUS: "This is the status of a subscription.",
    Kind.QUERY_EVENT: "These are events of a subscription.",
}


class Form(msgspec.Struct, frozen=True):
    """What the subscribed media type says of a mail."""

    html: bool
    attached: MediaType | None = None


def form_of(text: str) -> Form | None:
    """`text/plain;attach=application/fhir+json`: the body's form, and what goes with it; None for any other.

    Raises Unsupported for an attachment that is not FHIR.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        return None
    attached = (match[2] or match[3] or "").strip()
    return Form(match[1].lower() == "html", media_type(attached) if attached else None)


def subject(kind: Kind, about: About, events: Sequence[Event]) -> str:
    """A line that says what it is, and nothing of what it is about: headers of mails are read by many."""
    number = f" {events[-1].number}" if events else ""
    return f"Subscription {about.url.rsplit('/', 1)[-1]}: {kind.value}{number}"


def body(kind: Kind, about: About, events: Sequence[Event], *, html: bool) -> str:
    """The body of the mail."""
    lines = [_SAYS[kind], *_facts(about), *(_event(one, about) for one in events[:MOST])]
    if len(events) > MOST:
        lines.append(f"and {len(events) - MOST} more events")
    if not html:
        return "\n".join(lines) + "\n"
    inside = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<!DOCTYPE html><html><body>{inside}</body></html>\n"


def _facts(about: About) -> list[str]:
    facts = [f"Subscription: {about.url}", f"Status: {about.status.value}", f"Events so far: {about.since_start}"]
    if about.topic and about.content is not Content.EMPTY:  # S-23
        facts.insert(1, f"Topic: {about.topic}")
    return facts


def _event(one: Event, about: About) -> str:
    text = f"Event {one.number}"
    if one.at is not None:
        text += f" at {instant(one.at)}"
    if about.content is not Content.EMPTY:
        named = [_named(each) for each in (one.focus, *one.more) if each is not None]
        text += f": {', '.join(named)}" if named else ""
    return f"{text} (ask {one.query})" if one.query else text


def _named(one: Carried) -> str:
    done = f" {one.interaction.value}d" if one.interaction is not None else ""
    return f"{one.reference or one.type}{done}"

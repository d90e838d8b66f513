"""The trace: the whole story of one message, with times, as plain values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from broker.core.addressing import shown
from broker.core.delivery import AnswerState, Event, Outcome, State, Step
from broker.core.ids import MessageIds
from broker.core.message import Fate, Message
from broker.core.policy import Order
from broker.plugins import is_mailbox
from broker.store import Delivery, Note, Place, Store, Stored

CALLER = "caller:"  # the address of a response that went to the caller that waited
UUID = "urn:uuid:"
MOST_FOUND = 50  # messages that share an id of a sender's

UnderWay = Callable[[str, int, int], bool]
Told = dict[str, Any]

_FATES = {
    Fate.MESSAGE: "to be carried on",
    Fate.ANSWER: "the response to",
    Fate.LATE: "a late response to",
    Fate.DOUBLE: "one more response to",
    Fate.UNMATCHED: "a response to nothing that was carried here",
    Fate.REPORT: "our own report on",
    Fate.NOTICE: "a notification of ours",
}


async def find(store: Store, ids: MessageIds, text: str) -> tuple[int, ...]:
    """Positions of the messages that an id means: ours, or any that a sender made; newest first."""
    own = ids.position(text)
    if own is not None and await store.stored(own) is not None:
        return (own,)
    return await store.find(_spellings(text), MOST_FOUND)


def _spellings(text: str) -> tuple[str, ...]:
    """The keys under which the store knows an id: as a response may quote it (M-31), and as an identity (M-20)."""
    bare = text[len(UUID) :] if text[: len(UUID)].lower() == UUID else text
    forms = dict.fromkeys((bare, text, UUID + bare))
    return (bare, *(f"{kind}:{form}" for kind in ("bundle", "identifier") for form in forms))


async def story(store: Store, ids: MessageIds, position: int, *, under_way: UnderWay | None = None) -> Told | None:
    """All that is known of a message; None where there is none at this position."""
    stored = await store.stored(position)
    if stored is None:
        return None
    deliveries, notes, mail, answers = await asyncio.gather(
        store.deliveries(position), store.notes(position), store.mail_of(position), store.answers_to(position)
    )
    places = await places_of(store, deliveries)
    return {
        **_message(stored, ids),
        "deliveries": [delivery_told(one, ids, under_way, places.get(one.number)) for one in deliveries],
        "mailboxes": [{"endpoint": name, "read": at, "reader": who} for name, at, who in mail],
        "notes": [{"at": one.at, "what": one.what, "text": one.text, "who": one.who or None} for one in notes],
        "answers": _answers(stored, ids),
        "answered_by": [{**line(one, ids), **_link(one)} for one in answers],
        "story": _in_order([
            *_beginning(stored, ids), *_carried(deliveries), *map(_noted, notes), *_read(mail), *_came(answers, ids),
        ]),
        "ahead": _in_order(_ahead(deliveries)),
    }  # fmt: skip


# -- the message


def line(stored: Stored, ids: MessageIds) -> Told:
    """A message in a list."""
    message = stored.message
    return {
        "id": ids.of(stored.position),
        "position": stored.position,
        "accepted": stored.accepted,
        "fate": message.fate.name.lower(),
        "event": str(message.header.event) or None,
        "source": message.source,
        "destinations": [one.endpoint for one in message.header.destinations if one.endpoint],
        "bytes": message.size,
        "media_type": message.media_type,
        "fhir": None if message.header.opaque else message.header.release.value,
        "bundle_id": message.header.bundle_id,
        "message_id": message.header.message_id,
    }


def _message(stored: Stored, ids: MessageIds) -> Told:
    message, header, envelope = stored.message, stored.message.header, stored.message.envelope
    return {
        **line(stored, ids),
        "format": None if header.opaque else header.format.value,
        "bundle_identifier": str(header.bundle_identifier) if header.bundle_identifier else None,
        "timestamp": header.timestamp,
        "response": {"identifier": str(header.response.identifier), "code": header.response.code}
        if header.response
        else None,
        "digest": message.digest,
        "body_kept": stored.body_kept,
        "received": message.at,
        "channel": message.channel,
        "peer": message.peer,
        "party": message.party,
        "way_in": message.way_in,
        "response_url": message.response_url,
        "correlation": envelope.correlationid,
        "via": list(envelope.via),
        "expirytime": envelope.expirytime,
        "traceparent": envelope.traceparent,
    }


def _link(stored: Stored) -> Told:
    response = stored.message.header.response
    return {
        "delivery": stored.answers[1] or None if stored.answers else None,
        "code": response.code if response else None,
    }


def _answers(stored: Stored, ids: MessageIds) -> Told | None:
    """What it answers or reports on."""
    if stored.answers is None:
        return None
    position, number = stored.answers
    return {"id": ids.of(position), "position": position, "delivery": number or None}


# -- deliveries


async def places_of(store: Store, deliveries: Sequence[Delivery]) -> dict[int, Place]:
    """Where the deliveries of a message stand in their streams, by number."""
    if all(one.policy.order is Order.NONE for one in deliveries):
        return {}
    return {place.number: place for place in await store.places(deliveries[0].position)}


def delivery_told(
    one: Delivery, ids: MessageIds, under_way: UnderWay | None = None, place: Place | None = None
) -> Told:
    """A delivery with every step of it."""
    return {
        "number": one.number,
        "destination": one.destination or None,
        "state": one.state.name.lower(),
        "under_way": under_way is not None and under_way(one.lane, one.position, one.number),
        "rule": one.rule or None,
        "address": one.address or None,
        "address_from": "rule" if one.fixed else "directory",
        "lane": one.lane or None,
        "attempts": one.attempts,
        "left": one.left,
        "due": one.due if one.state is State.WAITING and not one.is_behind else None,
        "order": one.policy.order.value,
        "stream": _place(place, ids) if place is not None else None,
        "expiry": one.expiry,
        "ended": one.ended,
        "answer": {
            "state": one.answer.name.lower(),
            "by": one.answer_by,
            "answered_by": ids.of(one.answered_by) if one.answered_by is not None else None,
        },
        "outcome": outcome_told(one.outcome) if one.outcome else None,
        "steps": [_step(step) for step in one.steps],
    }


def _place(place: Place, ids: MessageIds) -> Told:
    """What it waits for in its stream, or that it is what others wait for."""
    return {
        "behind": ids.of(place.behind) if place.behind is not None else None,
        "ahead": place.ahead,
        "held_by": [ids.of(position) for position in place.held_by],
        "holds": place.holds,
    }


def outcome_told(outcome: Outcome) -> Told:
    """How it ended; the receiver's own words are a payload and stay out."""
    problem = outcome.problem
    return {
        "taken": outcome.taken.value if outcome.taken else None,
        "status": outcome.status,
        "problem": {"id": problem.id, "code": problem.code, "who": problem.who.value, "text": problem.text}
        if problem
        else None,
        "answer_bytes": len(outcome.body) if outcome.body is not None else None,
    }


def _step(step: Step) -> Told:
    return {
        "at": step.at,
        "what": step.what,
        "note": step.note or None,
        "status": step.status,
        "took": step.took,
        "address": step.address,
        "left": step.left,
    }


# -- the time line


def _entry(at: datetime, what: str, text: str, delivery: int | None = None) -> Told:
    return {"at": at, "what": what, "text": text, "delivery": delivery}


def _in_order(entries: Iterable[Told]) -> list[Told]:
    return sorted(entries, key=lambda entry: entry["at"])  # stable: what came at one instant stays as it was told


def _beginning(stored: Stored, ids: MessageIds) -> list[Told]:
    message = stored.message
    kept = f"kept as {ids.of(stored.position)}, {_FATES[message.fate]}"
    if stored.answers is not None:
        kept += f" {ids.of(stored.answers[0])}"
    if message.fate is Fate.REPORT:
        return [_entry(stored.accepted, "accepted", kept)]
    return [_entry(message.at, "received", _received(message)), _entry(stored.accepted, "accepted", kept)]


def _received(message: Message) -> str:
    event = str(message.header.event) or "a message without an event"
    who = f" as {message.party}" if message.party else ""
    peer = f" ({message.peer})" if message.peer else ""
    source = shown(message.source) if message.source else "a source without an endpoint"
    return f"{event} from {source} over {message.channel}{peer}{who}, {message.size} bytes"


def _carried(deliveries: Iterable[Delivery]) -> Iterable[Told]:
    for one in deliveries:
        if not one.steps and one.ended is not None:
            yield _entry(one.ended, *_at_once(one), one.number)
        for step in one.steps:
            # an attempt is written down with the time at which it began; its end is what happened
            at = step.at + timedelta(seconds=step.took or 0)
            yield _entry(at, step.what, _step_text(one, step), one.number)


def _at_once(one: Delivery) -> tuple[str, str]:
    """What the accepting commit itself was the end of."""
    if one.state is State.LOGGED:
        return "logged", "kept, and goes nowhere"
    if one.address == CALLER:
        return "delivered", "to the caller that waits for it"
    if is_mailbox(one.address):
        owner = one.address.partition(":")[2] or one.destination or "nobody in particular"
        return "delivered", f"put into the mailbox of {shown(owner)}"
    return one.state.name.lower(), _whereto(one, one.address)


def _whereto(one: Delivery, address: str | None) -> str:
    at = f"at {address}" if address else ""
    parts = ("to", shown(one.destination) if one.destination else "", at)
    return " ".join(part for part in parts if part) if any(parts[1:]) else "to nobody yet"


def _step_text(one: Delivery, step: Step) -> str:
    said = [step.note] if step.note else []
    if step.status is not None and str(step.status) not in step.note:
        said.append(f"status {step.status}")
    if step.took is not None:
        said.append(f"after {_seconds(step.took)}")
    problem = one.outcome.problem if one.outcome else None
    if step.what in (Event.REFUSED.value, Event.EXPIRED.value) and problem is not None and step is one.steps[-1]:
        said.append(f"{problem.id}: {problem.text}")
    where = _whereto(one, step.address or one.address or None)
    return f"{where}: {'; '.join(said)}" if said else where


def _seconds(took: float) -> str:
    return f"{took * 1000:.0f} ms" if took < 10 else f"{took:.1f} s"


def _noted(note: Note) -> Told:
    return _entry(note.at, note.what, " ".join(part for part in (note.text, note.who and f"by {note.who}") if part))


def _read(mail: Iterable[tuple[str, datetime | None, str | None]]) -> Iterable[Told]:
    for name, at, who in mail:
        if at is not None:
            yield _entry(at, "read", f"in the mailbox of {shown(name)} by {who or 'somebody'}")


def _came(answers: Iterable[Stored], ids: MessageIds) -> Iterable[Told]:
    for one in answers:
        response = one.message.header.response
        code = f" ({response.code})" if response else ""
        fate = one.message.fate
        what = (
            "reported" if fate is Fate.REPORT else "answered" if fate is Fate.ANSWER else f"{fate.name.lower()}-answer"
        )
        source = shown(one.message.source) if one.message.source else "somebody"
        yield _entry(one.accepted, what, f"by {source}{code}: message {ids.of(one.position)}")


def _ahead(deliveries: Iterable[Delivery]) -> Iterable[Told]:
    """What is still to come if nothing else happens."""
    for one in deliveries:
        if one.state is State.WAITING:
            if not one.is_behind:
                yield _entry(one.due, "attempt", _whereto(one, one.address or None), one.number)
            yield _entry(one.expiry, "give-up", "it is worth nothing any more and is not sent", one.number)
        if one.answer is AnswerState.OPEN and one.answer_by is not None:
            yield _entry(one.answer_by, "answer-time-over", "the source is told that no answer came", one.number)

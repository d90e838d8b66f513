"""`fhir-broker trace`: the whole story of a message, as people read it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from broker.commands.ask import Daemon, asking
from broker.commands.ends import Ended, Exit
from broker.commands.say import Say, at

STYLES = {
    "delivered": "green", "answered": "green", "accepted": "bold", "refused": "red", "expired": "red",
    "deferred": "yellow", "held": "yellow", "withdrawn": "yellow", "cancelled": "yellow", "reported": "yellow",
}  # fmt: skip
STATES = {"dead": "red", "waiting": "yellow", "done": "green"}

Line = tuple[str, str]  # text and style


def trace(where: str, id: str, *, say: Say, body: bool = False) -> int:
    """Prints the story; with `body`, the bytes as they came instead."""
    if body:
        sys.stdout.buffer.write(asking(where, lambda daemon: daemon.fetch("messages", id, "body")))
        sys.stdout.buffer.flush()
        return Exit.OK
    told = asking(where, lambda daemon: one(daemon, id))
    if say.as_json:
        say.json(told)
        return Exit.OK
    for text, style in rendered(told):
        say.line(text, style)
    return Exit.OK


async def one(daemon: Daemon, id: str) -> Any:
    """The story of the one message that the id means; where there are several, the command ends with the list."""
    told = await daemon.get("messages", id)
    if "several" not in told:
        return told
    lines = [
        f"  {m['id']}  {at(m['accepted'])}  {m['event'] or '-'}  from {m['source'] or '-'}" for m in told["several"]
    ]
    raise Ended(Exit.FAILED, "\n".join([f"{len(lines)} messages have this id; say which by ours:", *lines]))


def rendered(told: dict[str, Any]) -> Iterator[Line]:
    """The story as lines: what it is, where it goes, what happened, what is still to come."""
    yield f"{'message' if told['fate'] == 'message' else told['fate']} {told['id']}", "bold"
    for name, text in _facts(told):
        yield f"  {name:<12}{text}", ""
    if told["deliveries"]:
        yield "", ""
        yield "deliveries", "bold"
    for one in told["deliveries"]:
        yield from _delivery(one)
    for box in told["mailboxes"]:
        read = f"read {at(box['read'])} by {box['reader']}" if box["read"] else "nobody has read it"
        yield f"  mailbox of {box['endpoint']}: {read}", "" if box["read"] else "yellow"
    yield "", ""
    yield "story", "bold"
    for entry in told["story"]:
        yield _entry(entry, len(told["deliveries"]) > 1), STYLES.get(entry["what"], "")
    if told["ahead"]:
        yield "", ""
        yield "still to come", "bold"
    for entry in told["ahead"]:
        yield _entry(entry, len(told["deliveries"]) > 1), "dim"


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts = [
        ("event", told["event"]),
        ("from", told["source"]),
        ("to", ", ".join(told["destinations"]) or None),
        ("over", _over(told)),
        ("ids", _ids(told)),
        ("responds to", _responds(told["response"])),
        ("answers", told["answers"] and told["answers"]["id"]),
        ("via", " > ".join(told["via"]) or None),
        ("size", f"{told['bytes']} bytes, {told['media_type']}, FHIR {told['fhir']}"),
        ("digest", told["digest"] or None),
        ("bytes kept", None if told["body_kept"] else "no: retention has removed them"),
    ]
    yield from ((name, text) for name, text in facts if text)


def _over(told: dict[str, Any]) -> str:
    party = f", as {told['party']}" if told["party"] else ""
    return f"{told['channel']}{' from ' + told['peer'] if told['peer'] else ''}{party}"


def _ids(told: dict[str, Any]) -> str:
    named = [("Bundle.id", "bundle_id"), ("MessageHeader.id", "message_id"), ("Bundle.identifier", "bundle_identifier")]
    return ", ".join(f"{name} {told[key]}" for name, key in named if told[key])


def _responds(response: dict[str, str] | None) -> str | None:
    return f"{response['identifier']} ({response['code']})" if response else None


def _delivery(one: dict[str, Any]) -> Iterator[Line]:
    where = f" at {one['address']}" if one["address"] else ""
    yield (
        f"  {one['number']}  {one['state']:<10}{one['destination'] or '(no name)'}{where}",
        STATES.get(one["state"], ""),
    )
    attempts = f"{one['attempts']} attempt{'' if one['attempts'] == 1 else 's'}"
    rule = f"rule {one['rule']!r}" if one["rule"] else "the defaults"
    answer = f", answer {one['answer']['state']}" if one["answer"]["state"] != "none" else ""
    yield f"     {attempts}, by {rule}{answer}{', under way now' if one['under_way'] else ''}", "dim"
    if one["stream"]:
        yield f"     {_waits(one['stream'])}", "yellow"
    problem = one["outcome"] and one["outcome"]["problem"]
    if problem:
        yield f"     {problem['id']} ({problem['who']}): {problem['text']}", "red"


def _waits(stream: dict[str, Any]) -> str:
    """What it waits for in its stream, or that others wait for it."""
    if stream["holds"]:
        return "it holds its stream until it is redriven or dropped, or `fhir-broker streams resume` is said"
    held = f"its stream is held by the dead letter of {', '.join(stream['held_by'])}" if stream["held_by"] else ""
    behind = f"behind {stream['behind']}, {stream['ahead']} of its stream before it" if stream["behind"] else ""
    return "; ".join(part for part in (behind, held) if part) or "it is its turn in its stream"


def _entry(entry: dict[str, Any], numbered: bool) -> str:
    number = f"[{entry['delivery']}] " if numbered and entry["delivery"] else ""
    return f"  {at(entry['at'])}  {entry['what']:<16} {number}{entry['text']}"

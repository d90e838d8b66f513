"""`fhir-broker subscriptions`: who is told of what, how far behind, and the word that one is told no more."""

from __future__ import annotations

from typing import Any

from broker.commands.ask import asking
from broker.commands.ends import Exit
from broker.commands.say import Say, at


def ls(where: str, *, status: str | None, after: int, limit: int, say: Say) -> int:
    told = asking(where, lambda daemon: daemon.get("subscriptions", status=status, after=after, limit=limit))
    if say.as_json:
        say.json(told)
        return Exit.OK
    rows = [
        (one["id"], one["topic"] or one["criteria"], one["channel"], one["status"], one["counted"], one["sent"],
         one["behind"], at(one["next"]), one["error"])
        for one in told["subscriptions"]
    ]  # fmt: skip
    titles = ("SUBSCRIPTION", "TOPIC", "CHANNEL", "STATUS", "COUNTED", "SENT", "BEHIND", "NEXT", "ERROR")
    say.table(titles, rows, nothing="nobody is subscribed" if not status else f"no subscription is {status}")
    if told["next"] is not None:
        say.line(f"more: fhir-broker subscriptions ls --after {told['next']}")
    return Exit.OK


def show(where: str, id: str, *, say: Say) -> int:
    told = asking(where, lambda daemon: daemon.get("subscriptions", id))
    if say.as_json:
        say.json(told)
        return Exit.OK
    say.line(told["id"], "bold")
    say.line(f"  {told['topic'] or told['criteria']}{_filters(told)}")
    to = f" to {told['endpoint']}" if told["endpoint"] else ""
    say.line(f"  over {told['channel']}{to}, as {told['content'] or told['model']}, FHIR {told['fhir']}")
    say.line(f"  {told['status']} since {at(told['since'])}{_more(told)}")
    say.line(f"  {told['counted']} events counted, {told['sent']} sent, {told['behind']} behind")
    if told["error"]:
        say.line(f"  {told['error']}", "yellow")
    if told["notice"]:
        say.line(f"  on its way: {_notice(told['notice'])}")
    return Exit.OK


def _filters(told: dict[str, Any]) -> str:
    return f", where {' and '.join(told['filters'])}" if told["filters"] else ""


def _more(told: dict[str, Any]) -> str:
    owner = f", of {told['owner']}" if told["owner"] else ""
    end = f", ends {at(told['end'])}" if told["end"] else ""
    gap = ", with a gap" if told["gap"] else ""
    return f"{gap}{owner}{end}"


def _notice(notice: dict[str, Any]) -> str:
    numbers = f" of events {notice['first']} to {notice['last']}" if notice["first"] else ""
    note = f", last: {notice['note']}" if notice["note"] else ""
    return f"{notice['kind']}{numbers}, message {notice['id']}, {notice['attempts']} attempts{note}"


def switch(where: str, id: str, *, on: bool, reason: str | None, say: Say) -> int:
    body = {"reason": reason} if reason else None
    word = "on" if on else "off"
    told = asking(where, lambda daemon: daemon.post("subscriptions", id, word, json=body))
    if say.as_json:
        say.json(told)
    else:
        say.line(f"{told['id']} is {told['status']}")
    return Exit.OK

"""`fhir-broker streams`: what has to wait for what goes before it, and the word that a held stream may go on."""

from __future__ import annotations

from typing import Any

from broker.commands.ask import asking
from broker.commands.ends import Exit
from broker.commands.say import Say, at


def ls(where: str, *, limit: int, say: Say) -> int:
    told = asking(where, lambda daemon: daemon.get("streams", limit=limit))
    if say.as_json:
        say.json(told)
        return Exit.OK
    rows = [
        (one["destination"] or one["address"], _by(one), one["waiting"], one["next"], _held(one))
        for one in told["streams"]
    ]
    titles = ("DESTINATION", "ORDERED BY", "WAITING", "NEXT", "HELD BY")
    say.table(titles, rows, nothing="no stream is held, and in none does anything wait for another")
    return Exit.OK


def _by(one: dict[str, Any]) -> str:
    return f"{one['by']} {one['value']}" if one["value"] else "nothing but the destination"


def _held(one: dict[str, Any]) -> str | None:
    if not one["held_by"]:
        return None
    first, *others = one["held_by"]
    more = f" and {len(others)} more" if others else ""
    return f"{first['id']}{more}, since {at(first['since'])}"


def resume(where: str, id: str, *, number: int | None, say: Say) -> int:
    done = asking(where, lambda daemon: daemon.post("streams", id, "resume", number=number))
    if say.as_json:
        say.json(done)
    else:
        say.line(f"what waited goes on; {done['id']} stays dead")
    return Exit.OK

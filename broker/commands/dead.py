"""`fhir-broker dead`: what was given up, why, and an operator's two ways with it."""

from __future__ import annotations

from typing import Any

from broker.commands.ask import Daemon, asking
from broker.commands.ends import Ended, Exit
from broker.commands.say import Say, at
from broker.commands.trace import one, rendered


def ls(where: str, *, limit: int, after: int, say: Say) -> int:
    page = asking(where, lambda daemon: daemon.get("dead", limit=limit, after=after))
    if say.as_json:
        say.json(page)
        return Exit.OK
    rows = [
        (
            letter["id"],
            letter["delivery"]["number"],
            at(letter["delivery"]["ended"]),
            letter["delivery"]["destination"],
            letter["delivery"]["attempts"],
            _why(letter["delivery"]),
        )
        for letter in page["dead"]
    ]
    say.table(("MESSAGE", "NO", "DIED", "DESTINATION", "ATTEMPTS", "WHY"), rows, nothing="no dead letters")
    if page["next"] is not None:
        say.line(f"more: fhir-broker dead ls --after {page['next']}")
    return Exit.OK


def _why(delivery: dict[str, Any]) -> str:
    problem = delivery["outcome"] and delivery["outcome"]["problem"]
    holds = "holds its stream; " if delivery["stream"] and delivery["stream"]["holds"] else ""
    return f"{holds}{problem['id']}: {problem['text']}" if problem else f"{holds}-"


def show(where: str, id: str, *, say: Say) -> int:
    """The trace of a message that has dead deliveries."""
    told = asking(where, lambda daemon: one(daemon, id))
    dead = [delivery for delivery in told["deliveries"] if delivery["state"] == "dead"]
    if not dead:
        raise Ended(Exit.FAILED, f"none of the deliveries of {told['id']} is dead; `fhir-broker trace` shows it")
    if say.as_json:
        say.json({**told, "deliveries": dead})
        return Exit.OK
    for text, style in rendered(told):
        say.line(text, style)
    say.line()
    say.line(f"try again: fhir-broker dead redrive {told['id']}")
    say.line(f'give up:   fhir-broker dead drop {told["id"]} --reason "…"')
    if any(one["stream"] and one["stream"]["holds"] for one in dead):
        say.line(f"go past:   fhir-broker streams resume {told['id']}")
    return Exit.OK


def redrive(where: str, ids: list[str], *, everything: bool, number: int | None, say: Say) -> int:
    if everything == bool(ids):
        raise Ended(Exit.USAGE, "name messages, or say --all for every dead letter")
    if number is not None and len(ids) != 1:
        raise Ended(Exit.USAGE, "--number goes with one message")

    async def work(daemon: Daemon) -> Any:
        if len(ids) == 1:
            done = await daemon.post("dead", ids[0], "redrive", number=number)
            return {"redriven": len(done["redriven"]), "left": []}
        return await daemon.post("dead", "redrive", json={"ids": ids} if ids else {})

    done = asking(where, work)
    if say.as_json:
        say.json(done)
    else:
        say.line(f"{_letters(done['redriven'])} on the way again")
        for left in done["left"]:
            say.line(f"left: {left['id']}: {left['error']['text']} ({left['error']['id']})", "yellow")
    return Exit.REFUSED if done["left"] else Exit.OK


def drop(where: str, id: str, *, reason: str, number: int | None, say: Say) -> int:
    done = asking(where, lambda daemon: daemon.post("dead", id, "drop", json={"reason": reason}, number=number))
    if say.as_json:
        say.json(done)
    else:
        say.line(f"{_letters(len(done['dropped']))} given up for good; the trace of {done['id']} stays")
    return Exit.OK


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"

"""`fhir-broker mailbox` and `directory`: what lies where."""

from __future__ import annotations

from typing import Any

from broker.commands.ask import asking
from broker.commands.ends import Exit
from broker.commands.say import Say, at


def mailboxes(where: str, *, say: Say) -> int:
    told = asking(where, lambda daemon: daemon.get("mailboxes"))
    if say.as_json:
        say.json(told)
        return Exit.OK
    rows = [(box["endpoint"], box["messages"], box["unread"], box["last"]) for box in told["mailboxes"]]
    say.table(("MAILBOX", "MESSAGES", "UNREAD", "LAST"), rows, nothing="no mailbox has a message")
    return Exit.OK


def mailbox(where: str, endpoint: str, *, after: int, limit: int, say: Say) -> int:
    """What a mailbox holds; to look at it here is no reading."""
    page = asking(
        where, lambda daemon: daemon.get("mailboxes", endpoint, "messages", after=after, limit=limit)
    )  # fmt: skip
    if say.as_json:
        say.json(page)
        return Exit.OK
    rows = [
        (one["position"], at(one["accepted"]), one["id"], one["event"], one["source"], one["bytes"],
         f"{at(one['read'])} {one['reader'] or ''}" if one["read"] else "unread")
        for one in page["messages"]
    ]  # fmt: skip
    titles = ("POSITION", "ACCEPTED", "MESSAGE", "EVENT", "FROM", "BYTES", "READ")
    say.table(titles, rows, nothing="no message" if not after else f"no message after {after}")
    if page["first_left"] is not None:
        say.line(f"what followed {after} is gone by retention; the first left is {page['first_left']}", "yellow")
    if page["more"]:
        say.line(f"more: fhir-broker mailbox read {endpoint} --after {page['reached']}")
    return Exit.OK


def directory(where: str, *, after: int, limit: int, say: Say) -> int:
    page = asking(where, lambda daemon: daemon.get("directory", after=after, limit=limit))
    if say.as_json:
        say.json(page)
        return Exit.OK
    rows = [
        (line["name"], line["how"], " ".join(entry["addresses"]) or "-", entry["state"], entry["origin"])
        for line in page["entries"]
        for entry in line["entries"]
    ]
    say.table(("NAME", "HOW", "ADDRESS", "STATE", "FROM"), rows, nothing="the directory is empty")
    say_sources(page["sources"], say)
    say.line(f"{page['total']} names, version {page['version']}")
    if page["next"] is not None:
        say.line(f"more: fhir-broker directory ls --after {page['next']}")
    return Exit.OK


def say_sources(sources: list[dict[str, Any]], say: Say) -> None:
    """The servers that the directory is read from; what is not fresh stands out."""
    for one in sources:
        text = f"{one['source']}: {one['state']}, {one['resources']} resources"
        if one["read_at"]:
            text += f", read {at(one['read_at'])} ({one['age']:.0f} s ago)"
        say.line(text, "" if one["state"] == "fresh" else "yellow")
        if one["problem"]:
            say.line(f"  {one['problem']}", "yellow")


def lookup(where: str, name: str, *, say: Say) -> int:
    """Where a name leads; a name that nobody knows is a failure."""
    found = asking(where, lambda daemon: daemon.get("directory", "lookup", name=name))
    if say.as_json:
        say.json(found)
    else:
        say_lookup(found, say)
    return Exit.OK if found["addresses"] else Exit.FAILED


def say_lookup(found: dict[str, Any], say: Say) -> None:
    say.line(found["name"], "bold")
    for step in found["lookups"]:
        say.line(f"  ? {step['how']:<8} {step['tried']}: {step['found'] or 'nothing'}", "dim")
    if found["known"]:
        say.line(f"  known by {found['how']} {found['matched']}  [{found['origin']}]")
    if found["reason"]:
        say.line(f"  {found['reason']}", "yellow")
    several = " (the first that works)" if found["first"] else ""
    for address in found["addresses"]:
        say.line(f"  => {address}{several}", "green")
    for near in found["nearest"]:
        say.line(f"  did you mean {near}?")


def refresh(where: str, *, say: Say) -> int:
    """Reads the sources now; what is wrong in them is shown, and what they said before stays in use."""
    told = asking(where, lambda daemon: daemon.post("directory", "refresh"))
    if say.as_json:
        say.json(told)
        return Exit.OK
    wider = ", and patterns" if told["patterns_changed"] else ""
    say.line(f"{told['names']} names, version {told['version']}; {told['changed']} changed{wider}")
    if told["woken"]:
        say.line(f"{told['woken']} deliveries are due at once")
    say_sources(told["sources"], say)
    for problem in told["problems"]:
        say.line(problem, "yellow")
    return Exit.OK

"""`fhir-broker lanes`: the peers, what waits for each, and holds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.commands.ask import asking
from broker.commands.ends import Ended, Exit
from broker.commands.say import Say, at

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SHOWN = 5  # destinations left alone, by name; --json has all


def ls(where: str, *, say: Say) -> int:
    told = asking(where, lambda daemon: daemon.get("lanes"))
    if say.as_json:
        say.json(told)
        return Exit.OK
    rows = [
        (one["lane"] or "(no address yet)", _standing(one), one["waiting"], one["under_way"], at(one["oldest"]),
         at(one["next_due"]), len(one["left_alone"]) or None, one["reason"])
        for one in told["lanes"]
    ]  # fmt: skip
    titles = ("LANE", "STATE", "WAITING", "UNDER WAY", "OLDEST", "NEXT DUE", "LEFT ALONE", "REASON")
    say.table(titles, rows, nothing="nothing has been carried yet, and nothing waits")
    for one in told["lanes"]:
        for text in _more(one):
            say.line(f"{one['lane']}: {text}", "yellow")
    return Exit.OK


def _standing(lane: dict[str, Any]) -> str:
    if lane["state"] == "held":
        until = lane["hold"]["until"]
        return f"held until {at(until)}" if until else "held"
    return "open" if lane["state"] == "open" else f"closed until {at(lane['closed_until'])}"


def _more(lane: dict[str, Any]) -> list[str]:
    """What does not fit into its row."""
    lines = []
    hold = lane["hold"]
    if hold and hold["phase"] == "planned":
        lines.append(f"will be held {_when(hold)}")
    lines += [
        f"{one['destination']} is left alone until {at(one['until'])}: {one['reason']}"
        for one in lane["left_alone"][:SHOWN]
    ]
    if len(lane["left_alone"]) > SHOWN:
        lines.append(f"and {len(lane['left_alone']) - SHOWN} more destinations")
    return lines


def _when(hold: dict[str, Any]) -> str:
    until = f"until {at(hold['until'])}" if hold["until"] else "until it is resumed"
    why = f" ({hold['reason']})" if hold["reason"] else ""
    return f"from {at(hold['from'])} {until}{why}"


def hold(where: str, name: str, *, reason: str | None, begins: str | None, ends: str | None, say: Say) -> int:
    asked = {"reason": reason, "from": instant(begins, "--from"), "until": instant(ends, "--until")}
    body = {key: value for key, value in asked.items() if value is not None}
    told = asking(where, lambda daemon: daemon.post("lanes", name, "hold", json=body))
    if say.as_json:
        say.json(told)
        return Exit.OK
    verb = "is held" if told["hold"]["phase"] == "held" else "will be held"
    say.line(f"{name} {verb} {_when(told['hold'])}")
    if not told["known"]:
        say.line("nothing has gone to a lane of that name since the start; `fhir-broker lanes ls` has them", "yellow")
    return Exit.OK


def resume(where: str, name: str, *, say: Say) -> int:
    told = asking(where, lambda daemon: daemon.post("lanes", name, "resume"))
    if say.as_json:
        say.json(told)
    else:
        say.line(f"{name} goes on")
    return Exit.OK


def instant(text: str | None, option: str) -> str | None:
    """A time with its offset, or +2h: so long from now."""
    if text is None:
        return None
    found = re.fullmatch(r"\+(\d{1,6})([smhd])", text)
    if found is not None:
        return (datetime.now(UTC) + timedelta(**{UNITS[found[2]]: int(found[1])})).isoformat()
    try:
        written = datetime.fromisoformat(text)
    except ValueError:
        written = None
    if written is None or written.tzinfo is None:
        raise Ended(Exit.USAGE, f"{option} takes a time with Z or an offset (2026-11-22T02:00Z), or +2h for two hours")
    return written.isoformat()

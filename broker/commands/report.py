"""`fhir-broker report`: receipts that did not come, negative ones, and what was wrongly addressed, for a period."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from typing import Any

from broker.commands.ask import Daemon, asking
from broker.commands.ends import Exit
from broker.commands.say import Say, at, clean

COLUMNS = ("source", "party", "expected", "answered", "open", "missing", "silent", "withdrawn", "misaddressed")
LINE = (
    "id", "delivery", "accepted", "source", "party", "destination", "event", "what", "kind", "issues", "misaddressed",
    "expected", "answer_by", "answered_by", "text",
)  # fmt: skip
PAGE = 1000
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet would run what begins so


def report(
    where: str,
    *,
    begins: str | None,
    ends: str | None,
    source: str | None,
    party: str | None,
    what: str | None,
    limit: int,
    totals: bool,
    as_csv: bool,
    say: Say,
) -> int:
    """Totals and messages; as CSV one of the two, since a table has one kind of row."""
    period = {"from": begins, "to": ends, "source": source, "party": party}

    async def work(daemon: Daemon) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if totals or not as_csv:
            told = await daemon.get("report", **period)
            period["to"] = told["to"]  # both speak of the same period
            period["from"] = told["from"]
        if not totals:
            told.update(await _messages(daemon, {**period, "what": what}, limit))
        return told

    told = asking(where, work)
    if say.as_json:
        say.json(told)
    elif as_csv:
        _csv(told, totals=totals)
    else:
        _tables(told, say, totals=totals)
    return Exit.OK


async def _messages(daemon: Daemon, period: dict[str, str | None], limit: int) -> dict[str, Any]:
    """Page after page, up to the limit; `more` says that there are others."""
    lines: list[Any] = []
    after = 0
    while len(lines) < limit:
        page = await daemon.get("report", "messages", after=after, limit=min(PAGE, limit - len(lines)), **period)
        lines += page["messages"]
        if page["next"] is None:
            return {"messages": lines, "more": False}
        after = page["next"]
    return {"messages": lines, "more": True}


# -- as a spreadsheet reads it


def _csv(told: dict[str, Any], *, totals: bool) -> None:
    out = csv.writer(sys.stdout, lineterminator="\r\n")  # RFC 4180
    if totals:
        kinds = [(group, kind) for group in GROUPS for kind in told["total"][group]]
        out.writerow([*COLUMNS, *(f"{group}: {kind}" for group, kind in kinds)])
        for one in told["sources"]:
            row = [one[name] for name in COLUMNS] + [one[group].get(kind, 0) for group, kind in kinds]
            out.writerow([cell(value) for value in row])
        return
    out.writerow(LINE)
    for line in told["messages"]:
        out.writerow([cell(line[name]) for name in LINE])


GROUPS = ("negative", "undelivered", "refused")


def cell(value: object) -> str | int:
    """A value as one cell: what a stranger wrote must not be a formula."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return value
    text = clean(str(value))
    return f"'{text}" if text.startswith(FORMULA) else text


# -- as a terminal shows it


def _tables(told: dict[str, Any], say: Say, *, totals: bool) -> None:
    say.line(f"from {at(told['from'])} to {at(told['to'])}")
    say.line()
    rows = [_sums(one["source"] or "(no source)", one) for one in told["sources"]]
    if len(rows) > 1:
        rows.append(_sums("all", told["total"]))
    titles = ("SOURCE", "EXPECTED", "ANSWERED", "NEGATIVE", "OPEN", "MISSING", "UNDELIVERED", "REFUSED", "MISADDRESSED")
    say.table(titles, rows, nothing="nothing was sent in this period")
    for one in told["misaddressed"]:
        say.line(f"{one['day']}  {one['source'] or '-'} sent {one['count']} to {one['destination']}: {one['error']}")
    for one in told["outages"]:
        kind = "planned" if one["planned"] else "does not answer"
        say.line(f"not reached: {one['lane']} ({kind}; until {at(one['until'])}; {one['reason'] or '-'})", "yellow")
    if totals:
        return
    say.line()
    lines = [
        (line["id"], at(line["accepted"]), line["source"], line["destination"], line["event"], _why(line))
        for line in told["messages"]
    ]
    say.table(("MESSAGE", "ACCEPTED", "SOURCE", "DESTINATION", "EVENT", "WHAT"), lines, nothing="no receipt is missing")
    if told["more"]:
        say.line("there are more: --limit N, or --csv for all of them")


def _sums(name: str, one: dict[str, Any]) -> Sequence[Any]:
    return (
        name, one["expected"], one["answered"], _kinds(one["negative"]), one["open"], one["missing"],
        _kinds(one["undelivered"]), _kinds(one["refused"]), one["misaddressed"],
    )  # fmt: skip


def _kinds(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "0"


_WHY: dict[str, Callable[[dict[str, Any]], str]] = {
    "open": lambda line: f"no receipt yet, it has until {at(line['answer_by'])}",
    "missing": lambda line: f"no receipt came until {at(line['answer_by'])}",
    "negative": lambda line: f"negative receipt: {line['kind']}",
    "undelivered": lambda line: f"not delivered: {line['kind'] or '-'}",
}


def _why(line: dict[str, Any]) -> str:
    issues = f" ({', '.join(line['issues'])})" if line["issues"] else ""
    return _WHY[line["what"]](line) + issues

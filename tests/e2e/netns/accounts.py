"""The two ledgers against each other: what became of every message that was acknowledged, and what should not be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
from chain import Chain
from offices import Office, Sent


class Accounts:
    """One look at all ledgers. `faults` are sentences; without any, everything is accounted for."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.faults: list[str] = []

    def take(self, office: Office, other: Office, mail: dict[str, list[bytes]]) -> None:
        for one in office.sent.values():
            if not one.status:
                self.faults.append(f"{one.id}: never acknowledged, {one.tries} tries")
                continue
            end, fault = _end(one, other, mail)
            self.ends[f"{one.kind}: {end}"] += 1
            if fault:
                said = [(id, answer) for id, answer in one.answers.items()]
                self.faults.append(f"{one.id} (HTTP {one.status}): {fault}; heard {said}, {one.answer[:400]!r}")
        for id, came in office.came.items():
            if id not in other.sent:
                self.faults.append(f"{id} came to {office.name}, and nobody sent it")
            elif came.changed or came.body != other.sent[id].body:
                self.faults.append(f"{id} came with other bytes than it was sent with")
        self.faults += office.strange

    def check_report(self, name: str, total: dict[str, Any]) -> None:
        """The broker's own ledger: every expected receipt has come, and what was given up was astray or out of time."""
        if total["answered"] != total["expected"]:
            self.faults.append(f"broker {name} reports {total['answered']} of {total['expected']} receipts: {total}")
        if total["undelivered"].keys() - {"given-up", "refused-by-receiver"}:
            self.faults.append(f"broker {name} reports {total['undelivered']}")
        astray = total["undelivered"].get("refused-by-receiver", 0) + total["refused"].get("unknown-destination", 0)
        if total["misaddressed"] != astray:
            self.faults.append(f"broker {name} reports {total['misaddressed']} wrongly addressed, not {astray}")


def _end(one: Sent, other: Office, mail: dict[str, list[bytes]]) -> tuple[str, str]:
    """How it ended, and what is wrong with that."""
    came = other.came.get(one.id)
    reports = [answer for answer in one.answers.values() if answer["code"] != "ok"]
    answers = [id for id, answer in one.answers.items() if answer["code"] == "ok"]
    match one.kind:
        case "letter":
            return _delivered_once(came is not None, reports, answers)
        case "mail":
            return _delivered_once(mail.get(one.id) == [one.body], reports, answers)
        case "urgent":
            return _urgent(came is not None, reports, answers)
        case "astray":
            return _astray(came is not None, reports, answers)
        case _:
            return _answered(one, came is not None, reports, answers)


def _delivered_once(there: bool, reports: list[dict[str, object]], answers: list[str]) -> tuple[str, str]:
    if not there:
        return "lost", "it was acknowledged, and is not there once"
    return "delivered", "it was delivered, and something was reported" if reports or answers else ""


def _urgent(there: bool, reports: list[dict[str, object]], answers: list[str]) -> tuple[str, str]:
    # a broker that never heard that the next one took it gives it up as well: each says so once, of itself
    if answers or len(reports) > len({report["by"] for report in reports}):
        return "reported", "one broker reported it more than once, or it was answered"
    if not there and not reports:
        return "lost", "it was acknowledged, is not there, and nothing was reported"
    if there and reports:  # its last attempt arrived, and the word of that did not
        return "delivered, reported as uncertain", ""
    return ("delivered" if there else "expired, reported"), ""


def _astray(there: bool, reports: list[dict[str, object]], answers: list[str]) -> tuple[str, str]:
    if there or answers:
        return "delivered", "it came to somebody that it was not for"
    return "bounced", "" if len(reports) == 1 else f"it was reported {len(reports)} times"


def _answered(one: Sent, there: bool, reports: list[dict[str, object]], answers: list[str]) -> tuple[str, str]:
    expected = f"re-{one.id}"
    heard = set(answers)
    if one.status == 200:
        heard.add(orjson.loads(one.answer)["id"])
    if not there:
        return "lost", "it was acknowledged, and never came"
    if heard != {expected}:
        return "unanswered", f"its answer is {expected}, and it heard {sorted(heard)}"
    if reports:
        return "answered", "it was answered, and something was reported"
    return ("answered in the exchange" if one.status == 200 else "answered later"), ""


async def accounts(chain: Chain) -> Accounts:
    made = Accounts()
    held: dict[str, list[bytes]] = {}
    for name in ("a", "c"):
        for body in await chain.brokers[name].mailbox():
            held.setdefault(orjson.loads(body)["id"], []).append(body)
    made.take(chain.west, chain.east, held)
    made.take(chain.east, chain.west, held)
    for name, broker in chain.brokers.items():
        counts = (await broker.asked("status"))["counts"]
        if counts["waiting"] or counts["open_answers"]:
            made.faults.append(f"broker {name} still has {counts['waiting']} waiting, {counts['open_answers']} open")
        made.check_report(name, (await broker.asked("report"))["total"])
        bad = [line for line in broker.log_lines if line["level"] in ("error", "critical")]
        made.faults += [f"broker {name} logged {line}" for line in bad[:5]]
    return made

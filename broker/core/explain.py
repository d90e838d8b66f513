"""Tells how a route was decided: every rule tried, every lookup, and the verdict.

The explanation watches `decide` at work and asks the rules' own dimensions why one did not match; it decides nothing.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any

import msgspec

from broker.core.addressing import shown
from broker.core.envelope import EMPTY
from broker.core.policy import Policy
from broker.core.resolution import Lookup, Resolution, Whereabouts
from broker.core.routing import Decision, Question, Witness, decide
from broker.core.rules import Facts, RuleSet
from broker.core.stream import key_of

_MOST_SHOWN = 20  # values of one key; a message may name hundreds of receivers


def explain(question: Question, rules: RuleSet, directory: Whereabouts, defaults: Policy) -> dict[str, Any]:
    """What `decide` decides for this question, and why, as plain values that JSON can carry."""
    witness = Witness()
    route = decide(question, rules, directory, defaults, witness=witness)
    return {
        "message": _message(question),
        "directory": directory.version,
        "verdict": "refused" if route.is_refused else "accepted",
        "destinations": [
            _destination(question, decision, rules, witness.facts[asked], lookups)
            for decision, asked, lookups in zip(route.decisions, witness.asked, witness.lookups, strict=True)
        ],
    }


def verdict(decision: Decision) -> str:
    """In one word: refuse, log, hold or deliver."""
    if decision.problem is not None:
        return "refuse"
    if decision.log:
        return "log"
    return "hold" if decision.hold else "deliver"


def _message(question: Question) -> dict[str, Any]:
    header = question.header
    return {
        "event": str(header.event) if header else None,
        "response": header.is_response if header else False,
        "fhir": header.release.value if header else None,
        "type": question.event_type,
        "source": _named(question.source),
        "destinations": [shown(name) for name in question.destinations],
        "party": question.party,
        "channel": question.channel,
        "path": question.way_in,
    }


def _named(name: str | None) -> str | None:
    return None if name is None else shown(name)


def _destination(
    question: Question, decision: Decision, rules: RuleSet, facts: Facts, lookups: list[Lookup]
) -> dict[str, Any]:
    return {
        "destination": _named(decision.destination),
        "verdict": verdict(decision),
        "rules": _tried(rules, facts),
        "rule": decision.rule.name if decision.rule else None,
        "lookups": [{"how": one.how.value, "tried": shown(one.tried), "found": _named(one.found)} for one in lookups],
        "resolution": _resolution(decision.resolution),
        "addresses": list(decision.addresses),
        "addresses_from": _addresses_from(decision),
        "first": decision.first,
        "stream": None if decision.problem or decision.log else _stream(question, decision.policy),
        "policy": plain(decision.policy),
        "policy_from": decision.rule.name if decision.rule else "defaults",
        "problem": plain(decision.problem) if decision.problem else None,
    }


def _stream(question: Question, policy: Policy) -> dict[str, Any] | None:
    """By what it would be ordered here; what only an envelope says is not known of a message by itself."""
    key = key_of(policy.order, source=question.source, header=question.header, envelope=EMPTY)
    if key is None:
        return None
    return {"by": key.kind.value, "value": key.value or None, "on_refused": policy.on_refused}


def _addresses_from(decision: Decision) -> str | None:
    if not decision.addresses:
        return None
    return "directory" if decision.resolution else "rule"


def _resolution(resolution: Resolution | None) -> dict[str, Any] | None:
    if resolution is None:
        return None
    return {
        "how": resolution.how.value,
        "matched": _named(resolution.matched),
        "state": resolution.state.value,
        "origin": resolution.origin,
        "reason": resolution.reason,
    }


def _tried(rules: RuleSet, facts: Facts) -> list[dict[str, Any]]:
    """The rules in their order, up to the one that decides."""
    tried = []
    for number, rule in enumerate(rules.rules):
        unmet = rules.unmet(number, facts)
        line: dict[str, Any] = {"rule": rule.name, "where": rule.where, "matched": unmet is None, "failed": None}
        if unmet is not None:
            line["failed"] = {"key": unmet.key, "wanted": _some(unmet.wanted), "got": _some(unmet.got)}
        tried.append(line)
        if unmet is None:
            break
    return tried


def _some(values: tuple[str, ...]) -> list[str]:
    few = [shown(value) for value in values[:_MOST_SHOWN]]
    return few if len(values) <= _MOST_SHOWN else [*few, f"… {len(values) - _MOST_SHOWN} more"]


def plain(value: Any) -> Any:
    """A policy or a problem as plain values; durations as a configuration writes them."""
    if isinstance(value, msgspec.Struct):
        return {field: plain(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


def duration_text(duration: timedelta) -> str:
    """`90d`, `24h`, `15m`, `10s`, `250ms`: the largest unit that says it exactly."""
    microseconds = duration // timedelta(microseconds=1)
    if microseconds == 0:
        return "0s"
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if microseconds % size == 0:
            # 24h and 48h are said of a day or two; days begin where they are read more easily
            if unit == "d" and abs(microseconds) < 3 * size:
                continue
            return f"{microseconds // size}{unit}"
    return f"{microseconds / 1000:g}ms"


def render_explanation(explanation: dict[str, Any]) -> str:
    """The same as text for a terminal."""
    message = explanation["message"]
    kind = "response" if message["response"] else "message"
    lines = [f"{kind} {message['event'] or message['type'] or '(no event)'}"]
    facts = [("from", message["source"]), ("party", message["party"]), ("channel", message["channel"])]
    facts += [("path", message["path"]), ("FHIR", message["fhir"])]
    lines += [f"  {label:<8}{value}" for label, value in facts if value]
    for destination in explanation["destinations"]:
        lines += ["", *_destination_lines(destination)]
    lines += ["", f"verdict: {explanation['verdict']}   (directory {explanation['directory']})"]
    return "\n".join(lines) + "\n"


def _destination_lines(one: dict[str, Any]) -> list[str]:
    lines = [f"to {one['destination'] or '(no destination named)'}"]
    lines += [f"  {_rule_line(rule)}" for rule in one["rules"]]
    if one["rule"] is None:
        lines.append("  no rule matches: the defaults hold")
    lines += [f"  {_lookup_line(lookup)}" for lookup in one["lookups"]]
    resolution = one["resolution"]
    if resolution and resolution["how"] != "none":
        lines.append(f"  directory: {resolution['how']} {resolution['matched']}  [{resolution['origin']}]")
    if resolution and resolution["reason"]:
        lines.append(f"  {resolution['reason']}")
    lines += _end_lines(one)
    return lines


def _rule_line(rule: dict[str, Any]) -> str:
    where = f"  [{rule['where']}]" if rule["where"] else ""
    if rule["matched"]:
        return f"+ rule {rule['rule']!r} matches and decides{where}"
    failed = rule["failed"]
    got = ", ".join(failed["got"]) or "nothing"
    return f"- rule {rule['rule']!r}: {failed['key']} is {got}, wanted {' or '.join(failed['wanted'])}{where}"


def _lookup_line(lookup: dict[str, Any]) -> str:
    found = f"found {lookup['found']}" if lookup["found"] else "nothing"
    return f"? {lookup['how']:<8}{lookup['tried']}: {found}"


def _stream_line(stream: dict[str, Any], order: str) -> str:
    """What it would have to wait for."""
    alike = f"has the same {stream['by']}, {shown(stream['value'])}" if stream["value"] else "goes to this destination"
    without = f" (it has no {order})" if stream["by"] != order else ""
    refused = "holds the rest" if stream["on_refused"] == "hold" else "is skipped"
    return f"  in order with what {alike}{without}; what is refused {refused}"


def _end_lines(one: dict[str, Any]) -> list[str]:
    policy = one["policy"]
    lines = []
    if one["addresses"]:
        how = "the first that works of" if one["first"] else "all of"
        several = f" ({how} {len(one['addresses'])})" if len(one["addresses"]) > 1 else ""
        lines += [f"  => {address}{several}" for address in one["addresses"]]
    if one["problem"]:
        lines.append(f"  => refused ({one['problem']['id']}): {one['problem']['text']}")
    else:
        words = {"deliver": "delivered", "hold": "kept, held until it may be tried", "log": "kept, goes nowhere"}
        lines.append(f"  => {words[one['verdict']]}")
        sync, retry = policy["sync"], policy["retry"]
        lines.append(
            f"  policy of {one['policy_from']}: wait {sync['wait']} (longest {sync['longest']}), "
            f"answer within {policy['answer_within']}, retry from {retry['first']} to {retry['max']}, "
            f"give up after {retry['give_up']}, order {policy['order']}"
        )
        if one["stream"]:
            lines.append(_stream_line(one["stream"], policy["order"]))
    return lines

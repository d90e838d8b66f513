"""What is wrong with rules and policies beyond single values, and what in them can never apply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.config.mistake import Mistake, did_you_mean
from broker.config.places import Steps
from broker.config.subject import Subject
from broker.core.policy import Match, Order, Policy, Responses, Rule

_EVERYTHING = Match()


def contradictions(subject: Subject) -> list[Mistake]:
    looks = (_ends, _names, _known, _policies, _orders, _conversations, _retention, _unreachable)
    return [mistake for look in looks for mistake in look(subject)]


def _ends(subject: Subject) -> Iterator[Mistake]:
    """What becomes of a message is said once."""
    for index, rule in enumerate(subject.settings.routes):
        path: Steps = ("routes", index)
        said = [key for key in ("address", "refuse", "log") if getattr(rule, key)]
        if len(said) > 1:
            text = f"{_called(rule)} has {_and(said)}: only one of them can be"
            yield subject.mistake_at_key((*path, said[1]), text)
        if rule.cancels and (rule.refuse or rule.log):
            yield subject.mistake((*path, "cancels"), "what is refused or goes nowhere can cancel nothing")
        if rule.address is not None:
            yield from subject.address((*path, "address"), rule.address)
        if rule.to and rule.match.destination:
            text = f"{_called(rule)} can never use `to`, which is for messages that name no destination"
            yield subject.warning((*path, "to"), text, "it matches a destination")


def _names(subject: Subject) -> Iterator[Mistake]:
    first: dict[str, Rule] = {}
    for index, rule in enumerate(subject.settings.routes):
        same = first.setdefault(rule.name, rule)
        if same is not rule:
            line = same.where.rpartition(":")[2]
            yield subject.mistake(
                ("routes", index, "name"), f"two rules are called `{rule.name}`", f"the first is in line {line}"
            )


def _known(subject: Subject) -> Iterator[Mistake]:
    """Parties and channels that a rule names must be there, or it would never match in silence."""
    known = {"party": subject.root.keys("parties"), "channel": subject.root.keys("channels")}
    words = {"party": "there is no party", "channel": "there is no channel that is on called"}
    for index, rule in enumerate(subject.settings.routes):
        for path, match in _matches(("routes", index, "match"), rule.match):
            for key, names in known.items():
                for item, name in enumerate(getattr(match, key)):
                    if name not in names:
                        place = subject.root.at((*path, key, item))
                        hint = "" if place.is_substituted else did_you_mean(name, names)
                        yield subject.mistake((*path, key, item), f"{words[key]} `{place.shown}`", hint)


def _matches(path: Steps, match: Match) -> Iterator[tuple[Steps, Match]]:
    yield path, match
    if match.negated is not None:
        yield from _matches((*path, "not"), match.negated)


def _policies(subject: Subject) -> Iterator[Mistake]:
    for path, policy in (*_all(subject), *_of_notifications(subject)):
        if policy.sync.wait > policy.sync.longest:
            at = _said(subject, path, ("sync", "wait"), ("sync", "longest"))
            if at is not None:
                yield subject.mistake(at, "`wait` must not be longer than `longest`")
        if policy.retry.first > policy.retry.max:
            at = _said(subject, path, ("retry", "first"), ("retry", "max"))
            if at is not None:
                yield subject.mistake(at, "`first` must not be longer than `max`")


def _orders(subject: Subject) -> Iterator[Mistake]:
    """What is held is a stream, and there is one only where order is asked."""
    ordered = any(policy.order is not Order.NONE for _, policy in _all(subject))
    for path, policy in _all(subject):
        somewhere = policy.order is not Order.NONE or (path == ("defaults",) and ordered)
        if policy.on_refused == "hold" and not somewhere and subject.root.has(*path, "on_refused"):
            text = "`on_refused: hold` holds nothing where `order` is none"
            yield subject.warning((*path, "on_refused"), text, "say what is ordered, or leave it out")


def _conversations(subject: Subject) -> Iterator[Mistake]:
    """What is said of the last of several responses, where there are several."""
    several = any(policy.responses is Responses.SEVERAL for _, policy in _all(subject))
    for path, policy in _all(subject):
        here = policy.responses is Responses.SEVERAL
        if policy.final and not here and not (path == ("defaults",) and several) and subject.root.has(*path, "final"):
            yield subject.warning((*path, "final"), "`final` says nothing where `responses` is one")
        if here and policy.category == "consequence":
            at = _said(subject, path, ("responses",), ("category",))
            if at is not None:
                yield subject.mistake(at, "a message of category `consequence` has one response")


def _retention(subject: Subject) -> Iterator[Mistake]:
    """A copy must be recognised for as long as the first may still be on its way."""
    identity = subject.settings.store.retention.identity
    for path, policy in (*_all(subject), *_of_notifications(subject)):
        if policy.retry.give_up > identity:
            at = _said(subject, path, ("retry", "give_up"))
            if at is not None:
                text = "`give_up` must not be longer than `identity` in store.retention"
                yield subject.mistake(at, text, "a copy would no longer be recognised")
            elif path == ("defaults",):
                text = "`identity` must not be shorter than the longest `give_up`"
                yield subject.mistake(("store", "retention", "identity"), text)


def _all(subject: Subject) -> Iterator[tuple[Steps, Policy]]:
    yield ("defaults",), subject.settings.defaults
    for index, rule in enumerate(subject.settings.routes):
        yield ("routes", index), rule.policy


def _of_notifications(subject: Subject) -> Iterator[tuple[Steps, Policy]]:
    if subject.settings.subscriptions is not None:
        yield ("subscriptions",), subject.settings.subscriptions.delivery


def _said(subject: Subject, path: Steps, *leaves: Steps) -> Steps | None:
    """The first of the leaves that stands there; None where all of them come from elsewhere, which is told there."""
    return next(((*path, *leaf) for leaf in leaves if subject.root.has(*path, *leaf)), None)


def _unreachable(subject: Subject) -> Iterator[Mistake]:
    """The first rule that matches decides: what stands behind one for everything, or behind its equal, never does."""
    before: list[Rule] = []
    for index, rule in enumerate(subject.settings.routes):
        shadow = next((one for one in before if one.match in (_EVERYTHING, rule.match)), None)
        if shadow is not None:
            line = shadow.where.rpartition(":")[2]
            everything = "every message" if shadow.match == _EVERYTHING else "the same messages"
            text = f"{_called(rule)} can never match: {_called(shadow)} in line {line} matches {everything}"
            yield subject.warning(("routes", index), text)
        before.append(rule)


def _called(rule: Rule) -> str:
    return rule.name if rule.name.startswith("rule ") else f"rule `{rule.name}`"


def _and(words: Iterable[str]) -> str:
    *most, last = (f"`{word}`" for word in words)
    return f"{', '.join(most)} and {last}"

"""Search criteria over the content of a message: read, refused where they need what no message holds, and tested.

Criteria are ANDed; commas within a value are OR (S-58). What is not evaluable is said when it is asked for (S-57).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from broker.core.subscription.compare import PREFIXES, Bounds, date_bounds, number_bounds
from broker.core.subscription.elements import Values, listed
from broker.core.subscription.parameters import Definition, Kind, define, definition_of
from broker.core.subscription.subscription import Filter
from broker.core.subscription.topic import FilterBy

Aliases = Callable[[str], Iterable[str]]  # what else a reference inside the message is called

ORDERED = frozenset({Kind.DATE, Kind.NUMBER, Kind.QUANTITY})
HASHED = frozenset({Kind.TOKEN, Kind.REFERENCE, Kind.URI})  # equality, hence found by an index
MODIFIERS = {
    Kind.TOKEN: {"not", "missing"},
    Kind.REFERENCE: {"missing", "identifier"},
    Kind.STRING: {"missing", "exact", "contains"},
    Kind.URI: {"missing", "below"},
    Kind.DATE: {"missing"},
    Kind.NUMBER: {"missing"},
    Kind.QUANTITY: {"missing"},
}
ELSEWHERE = frozenset({"_in", "_list", "_has", "_filter", "_text", "_content", "_query"})  # need a server's state
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_COMMA = re.compile(r"(?<!\\),")
_ESCAPED = re.compile(r"\\([\\,|$])")
_VERSION = re.compile(r"/_history/[^/]*\Z")


class NotEvaluable(ValueError):
    """A rule or filter that the content of a message cannot answer; the text follows the name of the element."""


class Wanted(msgspec.Struct, frozen=True):
    """One of the values of a condition."""

    text: str
    prefix: str = "eq"
    bounds: Bounds | None = None  # of a date, number or quantity
    unit: str = ""  # of a quantity: `system|code`, or the code alone


class Facts(NamedTuple):
    """What a resource says at one place, in the form that conditions of its kind ask for."""

    there: bool  # whether it says anything at all
    keys: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()
    ranges: tuple[tuple[Bounds, Any], ...] = ()


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition; for each type of resource it applies to, where the values stand."""

    parameter: str
    modifier: str
    kind: Kind
    where: tuple[tuple[str, Definition], ...]  # by resource type; "" = any type
    values: tuple[Wanted, ...]

    @property
    def comparators(self) -> frozenset[str]:
        return frozenset(value.prefix for value in self.values) if self.kind in ORDERED else frozenset()

    @property
    def keys(self) -> tuple[str, ...] | None:
        """What one of has to be among `keys_of` the resource; None where it takes more than equality."""
        if self.kind not in HASHED or self.modifier not in ("", "identifier"):
            return None
        return tuple(value.text for value in self.values)

    def definition(self, type: str) -> Definition | None:
        """Where the values stand in a resource of this type; None where the condition is not about it."""
        for name, definition in self.where:
            if name in ("", type):
                return definition
        return None

    def facts(self, definition: Definition, resource: Values, aliases: Aliases) -> Facts:
        """What a resource says where the condition looks: the same for all conditions of one place and modifier."""
        found = list(values_at(resource, definition))
        if self.kind in HASHED:
            keys = keys_of(definition, found, aliases, by_identifier=self.modifier == "identifier")
            return Facts(bool(found), keys=frozenset(keys))
        if self.kind is Kind.STRING:
            return Facts(bool(found), texts=tuple(_texts(found)))
        bounds = [(date_bounds(one) if self.kind is Kind.DATE else number_bounds(one), one) for one in found]
        return Facts(bool(found), ranges=tuple((one, value) for one, value in bounds if one is not None))

    def meets(self, facts: Facts) -> bool:
        """Whether what a resource says is what is asked for."""
        if self.modifier == "missing":
            return (self.values[0].text == "true") is not facts.there
        if self.kind in ORDERED:
            return self._compares(facts)
        if self.kind is Kind.STRING:
            return any(self._reads(text) for text in facts.texts)
        if self.modifier == "below":
            return any(key.startswith(value.text) for key in facts.keys for value in self.values)
        for value in self.values:
            if value.text in facts.keys:
                return self.modifier != "not"
        return self.modifier == "not"

    def holds(self, resource: Values, aliases: Aliases = lambda reference: ()) -> bool:
        """Whether a resource fulfils it; of a type that the condition is not about, any does."""
        definition = self.definition(resource.get("resourceType", ""))
        return definition is None or self.meets(self.facts(definition, resource, aliases))

    def _reads(self, text: str) -> bool:
        if self.modifier == "exact":
            return any(text == value.text for value in self.values)
        text = text.casefold()
        if self.modifier == "contains":
            return any(value.text.casefold() in text for value in self.values)
        return any(text.startswith(value.text.casefold()) for value in self.values)

    def _compares(self, facts: Facts) -> bool:
        for bounds, found in facts.ranges:
            for value in self.values:
                if value.unit and not _has_unit(found, value.unit):
                    continue
                if value.bounds is not None and PREFIXES[value.prefix](bounds, value.bounds):
                    return True
        return False


class Query(msgspec.Struct, frozen=True):
    """`Type?a=b&c=d`: R4's classic criteria."""

    resource: str
    conditions: tuple[Condition, ...]

    def holds(self, resource: Values, aliases: Aliases = lambda reference: ()) -> bool:
        return resource.get("resourceType") == self.resource and all(
            condition.holds(resource, aliases) for condition in self.conditions
        )


def parse(criteria: str) -> Query:
    """The search string of a classic Subscription; raises NotEvaluable."""
    resource, _, rest = criteria.partition("?")
    if not _TYPE.fullmatch(resource):
        raise NotEvaluable("must be `Type?parameter=value`, or the canonical of a topic.")
    return Query(resource, conditions_of(rest, resource))


def conditions_of(text: str, resource: str) -> tuple[Condition, ...]:
    """The conditions of a search string without its type, as in a topic's queryCriteria; raises NotEvaluable."""
    found = []
    for part in text.removeprefix(f"{resource}?").removeprefix("?").split("&"):
        if not part:
            continue
        front, mark, value = part.partition("=")
        parameter, _, modifier = front.partition(":")
        if not mark or not parameter:
            raise NotEvaluable(f"has {part[:80]!r}, which is not `parameter=value`.")
        one = Filter(parameter=parameter, value=unquote(value), modifier=modifier)
        found.append(condition_of(one, FilterBy(parameter=parameter, resource=resource), frozenset({resource})))
    return tuple(found)


def condition_of(one: Filter, allowed: FilterBy, types: frozenset[str]) -> Condition:
    """A filter as a condition over the types that it may be about; raises NotEvaluable, saying why."""
    where = _where(one.parameter, one.resource_type or allowed.resource, allowed.paths, allowed.type, types)
    kind = where[0][1].kind  # a name means one kind, whatever the type
    modifier = one.modifier
    if kind is Kind.REFERENCE and _TYPE.fullmatch(modifier):  # subject:Patient=23
        one = msgspec.structs.replace(one, value=f"{modifier}/{one.value}", modifier="")
        modifier = ""
    if modifier and modifier not in MODIFIERS[kind]:
        known = ", ".join(sorted(MODIFIERS[kind]))
        raise NotEvaluable(f"has the modifier {modifier[:40]!r}; for {one.parameter} these work: {known}.")
    values = tuple(_wanted(text, one, kind) for text in _COMMA.split(one.value))
    return Condition(parameter=one.parameter, modifier=modifier, kind=kind, where=where, values=values)


@lru_cache(maxsize=4096)  # filters with one place in common have one object for it
def _where(
    parameter: str, about: str, paths: tuple[str, ...], kind: str, types: frozenset[str]
) -> tuple[tuple[str, Definition], ...]:
    """Where a parameter's values stand, type by type."""
    if parameter in ELSEWHERE or "." in parameter:
        raise NotEvaluable(f"has {parameter[:80]!r}, which needs more than the message holds.")
    if paths:
        return ((about, define(kind, " ".join(paths))),)
    candidates = (about,) if about else tuple(sorted(types))
    where = [(type, definition_of(type, parameter)) for type in candidates or ("",)]
    found = tuple((type, definition) for type, definition in where if definition is not None)
    if not found:
        of = f" of {', '.join(candidates)}" if candidates else ""
        raise NotEvaluable(
            f"has {parameter[:80]!r}{of}, whose place in a message is not known here: the topic can name it."
        )
    return found


def _wanted(text: str, one: Filter, kind: Kind) -> Wanted:
    if one.modifier == "missing":
        if text not in ("true", "false"):
            raise NotEvaluable(f"has :missing, whose value is true or false, not {text[:40]!r}.")
        return Wanted(text)
    if kind not in ORDERED:
        if one.comparator not in ("", "eq"):
            raise NotEvaluable(f"compares {one.parameter}, which has no order.")
        plain = _ESCAPED.sub(r"\1", text)
        return Wanted(_VERSION.sub("", plain) if kind is Kind.REFERENCE else plain)
    prefix = one.comparator
    if not prefix and text[:2] in PREFIXES:
        prefix, text = text[:2], text[2:]
    prefix = prefix or "eq"
    if prefix not in PREFIXES:
        raise NotEvaluable(f"has the comparator {prefix[:20]!r}; these work: {', '.join(sorted(PREFIXES))}.")
    number, _, unit = text.partition("|")
    bounds = date_bounds(text) if kind is Kind.DATE else number_bounds(number)
    if bounds is None:
        raise NotEvaluable(f"has {text[:40]!r} for {one.parameter}, which is no {kind.value}.")
    return Wanted(text, prefix, bounds, unit.strip("|") if kind is Kind.QUANTITY else "")


# --- what stands in a resource ---------------------------------------------------------------------------------------


def values_at(resource: Values, definition: Definition) -> Iterator[Any]:
    """The values at the paths of a definition, lists looked through."""
    for path in definition.paths:
        yield from _walk(resource, path)


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    for one in listed(value):
        if not path:
            yield one
        elif isinstance(one, dict):
            yield from _walk(one.get(path[0]), path[1:])


def keys_of(
    definition: Definition,
    found: Iterable[Any],
    aliases: Aliases = lambda reference: (),
    *,
    by_identifier: bool = False,
) -> set[str]:
    """Everything that a filter may say to mean one of these values."""
    keys: set[str] = set()
    for value in found:
        if definition.kind is Kind.REFERENCE:
            if by_identifier:
                _token(value.get("identifier") if isinstance(value, dict) else None, keys)
            else:
                _reference(value, definition.target, aliases, keys)
        elif definition.kind is Kind.URI:
            keys.add(str(value))
        else:
            _token(value, keys)
    return keys


def _token(value: Any, keys: set[str]) -> None:
    if isinstance(value, bool):
        keys.add("true" if value else "false")
    elif isinstance(value, str):
        keys.update((value, "|" + value))
    elif isinstance(value, dict):
        for coding in listed(value.get("coding")):  # a CodeableConcept
            _token(coding, keys)
        if isinstance(value.get("concept"), dict):  # a CodeableReference
            _token(value["concept"], keys)
        code, system = value.get("code", value.get("value")), value.get("system")
        if isinstance(code, str):
            keys.add(code)
            keys.add(f"{system}|{code}" if isinstance(system, str) else f"|{code}")
        if isinstance(system, str):
            keys.add(f"{system}|")


def _reference(value: Any, target: str, aliases: Aliases, keys: set[str]) -> None:
    written = value.get("reference") if isinstance(value, dict) else value
    if isinstance(written, dict):  # a CodeableReference
        return _reference(written, target, aliases, keys)
    if not isinstance(written, str):
        return None
    for name in (written, *aliases(written)):
        name = _VERSION.sub("", name)
        parts = name.rsplit("/", 2)
        typed = len(parts) > 1 and _TYPE.fullmatch(parts[-2]) is not None
        if target and typed and parts[-2] != target:
            continue
        keys.add(name)
        if typed:
            keys.update((f"{parts[-2]}/{parts[-1]}", parts[-1]))
    return None


def _texts(found: Iterable[Any]) -> Iterator[str]:
    """The texts in values that a string parameter looks at: HumanName and Address have several."""
    for value in found:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _texts(inner for one in value.values() for inner in listed(one) if isinstance(inner, str))


def _has_unit(found: Any, unit: str) -> bool:
    if not isinstance(found, dict):
        return False
    system, code, name = found.get("system", ""), found.get("code", ""), found.get("unit", "")
    return unit in (f"{system}|{code}", code, name)

"""Decides which rule of the configuration is for a message: the first whose keys all fit.

Each key of `match` is one dimension. A dimension answers with a number whose bit i says whether rule i accepts what
the message has there; the bits of all dimensions together are the rules that match, and the lowest is the one that
decides. A thousand rules so cost about what ten do (issue 3), and an explanation asks the very same dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from broker.core.addressing import (
    PrefixTable,
    check_name_pattern,
    compile_glob,
    is_prefix_pattern,
    name_key,
    prefix_of,
    shown,
)
from broker.core.fhir.header import Event, Header
from broker.core.policy import Match, Rule

_REMEMBERED = 4096  # distinct values per dimension; real senders have some dozens of events and types
_REMEMBERED_LENGTH = 256  # characters; so that a stranger's values cannot fill memory


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What rules look at, of one message on its way to one destination (or to none)."""

    header: Header | None
    destination: str | None
    receivers: tuple[str, ...]
    source: str | None
    party: str | None
    channel: str | None
    way_in: str | None
    transport_headers: tuple[tuple[str, str], ...]
    event_type: str | None


class Unmet(msgspec.Struct, frozen=True, kw_only=True):
    """The first key by which a rule does not fit."""

    key: str
    wanted: tuple[str, ...]
    got: tuple[str, ...]


class _Index(Protocol):
    """The rules that accept a value, as bits."""

    def of(self, value: str) -> int: ...


Values = Callable[[Facts], tuple[str, ...]]
Wanted = Mapping[int, tuple[str, ...]]  # by the number of the rule


class _Exact:
    def __init__(self, wanted: Wanted) -> None:
        self._bits: dict[str, int] = {}
        for number, values in wanted.items():
            for value in values:
                self._bits[value] = self._bits.get(value, 0) | 1 << number

    def of(self, value: str) -> int:
        return self._bits.get(value, 0)


class _Names:
    """Names by their key, exact and by prefix."""

    def __init__(self, wanted: Wanted) -> None:
        self._any = 0
        self._bits: dict[str, int] = {}
        prefixes: dict[str, int] = {}
        for number, patterns in wanted.items():
            bit = 1 << number
            for pattern in patterns:
                if pattern == "*":
                    self._any |= bit
                elif is_prefix_pattern(pattern):
                    prefix = prefix_of(pattern)
                    prefixes[prefix] = prefixes.get(prefix, 0) | bit
                else:
                    key = name_key(pattern)
                    self._bits[key] = self._bits.get(key, 0) | bit
        self._prefixes = PrefixTable(prefixes)

    def of(self, value: str) -> int:
        key = name_key(value)
        bits = self._any | self._bits.get(key, 0)
        if self._prefixes:
            for _, more in self._prefixes.above(key):
                bits |= more
        return bits


class _Globs:
    """Patterns with `*` anywhere; the answer for a value that comes often is remembered."""

    def __init__(self, wanted: Wanted) -> None:
        self._literal = _Exact({n: tuple(v for v in values if "*" not in v) for n, values in wanted.items()})
        self._globs = tuple((compile_glob(v), 1 << n) for n, vs in wanted.items() for v in vs if "*" in v)
        self._memory: dict[str, int] = {}

    def of(self, value: str) -> int:
        bits = self._memory.get(value)
        if bits is None:
            bits = self._literal.of(value)
            for fits, bit in self._globs:
                if fits(value):
                    bits |= bit
            if len(value) <= _REMEMBERED_LENGTH:
                if len(self._memory) >= _REMEMBERED:
                    self._memory.clear()
                self._memory[value] = bits
        return bits


class Dimension:
    """One key of `match`, over all rules."""

    __slots__ = ("_free", "_index", "_values", "_wanted", "key")

    def __init__(self, key: str, values: Values, index: _Index, wanted: Wanted, count: int) -> None:
        self.key = key
        self._values, self._index, self._wanted = values, index, wanted
        self._free = (1 << count) - 1
        for number in wanted:
            self._free &= ~(1 << number)

    def bits(self, facts: Facts) -> int:
        bits = self._free
        for value in self._values(facts):
            bits |= self._index.of(value)
        return bits

    def unmet(self, number: int, facts: Facts) -> Unmet:
        return Unmet(key=self.key, wanted=self._wanted.get(number, ()), got=self._values(facts))


class Matcher:
    """Many `match` blocks asked at once; where there is none (a rule without `not`), nothing fits."""

    def __init__(self, matches: Sequence[Match | None]) -> None:
        self._present = sum(1 << number for number, match in enumerate(matches) if match is not None)
        self._dimensions = tuple(_dimensions(matches))
        negated = [match.negated if match else None for match in matches]
        self._negated = Matcher(negated) if any(negated) else None
        self._matches = tuple(matches)

    def bits(self, facts: Facts) -> int:
        """The numbers of those that fit, as bits."""
        bits = self._present
        for dimension in self._dimensions:
            bits &= dimension.bits(facts)
            if not bits:
                return 0
        if self._negated is not None:
            bits &= ~self._negated.bits(facts)
        return bits

    def unmet(self, number: int, facts: Facts) -> Unmet | None:
        """The first key that does not fit; None where all do."""
        for dimension in self._dimensions:
            if not dimension.bits(facts) >> number & 1:
                return dimension.unmet(number, facts)
        if self._negated is not None and self._negated.bits(facts) >> number & 1:
            match = self._matches[number]
            text = match_text(match.negated) if match and match.negated else ""
            return Unmet(key="not", wanted=(text,), got=("all of it fits",))
        return None


def _event_values(facts: Facts) -> tuple[str, ...]:
    header = facts.header
    return _event_spellings(header.event) if header is not None else ()


def _event_spellings(event: Event) -> tuple[str, ...]:
    return (event.code, f"{event.system}|{event.code}") if event.system else (event.code,)


def _one(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)


def _profile_values(facts: Facts) -> tuple[str, ...]:
    """Each profile as it stands, and without its version: a canonical names both."""
    profiles = facts.header.profiles if facts.header is not None else ()
    return (*profiles, *(profile.split("|", 1)[0] for profile in profiles if "|" in profile))


def _header_values(name: str) -> Values:
    lower = name.lower()
    return lambda facts: tuple(value for key, value in facts.transport_headers if key.lower() == lower)


# What is asked first decides most often and costs least.
_KEYS: tuple[tuple[str, Values, type[_Exact] | type[_Names] | type[_Globs]], ...] = (
    ("event", _event_values, _Globs),
    ("destination", lambda f: _one(f.destination), _Names),
    ("source", lambda f: _one(f.source), _Names),
    ("party", lambda f: _one(f.party), _Exact),
    ("channel", lambda f: _one(f.channel), _Exact),
    ("path", lambda f: _one(f.way_in), _Exact),
    ("type", lambda f: _one(f.event_type), _Globs),
    ("fhir", lambda f: _one(f.header.release.value if f.header else None), _Exact),
    ("receiver", lambda f: f.receivers, _Names),
    ("sender", lambda f: f.header.senders if f.header else (), _Names),
    ("profile", _profile_values, _Names),
)
_NAMES = frozenset(key for key, _, kind in _KEYS if kind is _Names)


def _dimensions(matches: Sequence[Match | None]) -> Iterable[Dimension]:
    numbered = [(number, match) for number, match in enumerate(matches) if match is not None]
    for key, values, kind in _KEYS:
        wanted: dict[int, tuple[str, ...]] = {n: getattr(m, key) for n, m in numbered if getattr(m, key)}
        if wanted:
            yield Dimension(key, values, kind(wanted), wanted, len(matches))
    responses = {n: ("yes" if m.response else "no",) for n, m in numbered if m.response is not None}
    if responses:
        yield Dimension("response", _response_values, _Exact(responses), responses, len(matches))
    yield from _header_dimensions(numbered, len(matches))


def _response_values(facts: Facts) -> tuple[str, ...]:
    return ("yes",) if facts.header is not None and facts.header.is_response else ("no",)


def _header_dimensions(numbered: Sequence[tuple[int, Match]], count: int) -> Iterable[Dimension]:
    names = {name.lower() for _, match in numbered for name, _ in match.header}
    for name in sorted(names):
        wanted: dict[int, tuple[str, ...]] = {}
        for number, match in numbered:
            for written, values in match.header:
                if written.lower() == name:
                    wanted[number] = wanted.get(number, ()) + values
        yield Dimension(f"header {name}", _header_values(name), _Globs(wanted), wanted, count)


def problems_of(match: Match) -> tuple[tuple[str, str], ...]:
    """What is wrong in a `match` block: key (`not.source`) and text; for the check of a configuration."""
    found: list[tuple[str, str]] = []
    for key in sorted(_NAMES):
        for pattern in getattr(match, key):
            try:
                check_name_pattern(pattern)
            except ValueError as error:
                found.append((key, str(error)))
    for name, values in match.header:
        found += [
            (f"header.{name}", f"in {shown(value)!r}: `*` may stand only at the end")
            for value in values
            if "*" in value[:-1]
        ]
    if match.negated is not None:
        found += [(f"not.{key}", text) for key, text in problems_of(match.negated)]
    return tuple(found)


def match_text(match: Match) -> str:
    """A `match` block on one line."""
    parts = [f"{key}: {_alternatives(getattr(match, key))}" for key, _, _ in _KEYS if getattr(match, key)]
    parts += [f"header {name}: {_alternatives(values)}" for name, values in match.header]
    if match.response is not None:
        parts.append(f"response: {'yes' if match.response else 'no'}")
    if match.negated is not None:
        parts.append(f"not: {{{match_text(match.negated)}}}")
    return ", ".join(parts) or "anything"


def _alternatives(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else f"any of {', '.join(values)}"


class RuleSet:
    """The rules of a configuration in their order, compiled once; ValueError for a pattern that is none."""

    __slots__ = ("_matcher", "rules")

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        for rule in self.rules:
            for key, text in problems_of(rule.match):
                raise ValueError(f"rule {rule.name!r} ({rule.where}): match.{key}: {text}")
        self._matcher = Matcher([rule.match for rule in self.rules])

    def __len__(self) -> int:
        return len(self.rules)

    def first(self, facts: Facts) -> int | None:
        """The number of the rule that decides, if any matches."""
        bits = self._matcher.bits(facts)
        return (bits & -bits).bit_length() - 1 if bits else None

    def unmet(self, number: int, facts: Facts) -> Unmet | None:
        """Why this rule does not match; None where it does."""
        return self._matcher.unmet(number, facts)

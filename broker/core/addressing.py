"""Decides when two names are the same endpoint, and which names a pattern means (A-1 … A-5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Generic, TypeVar

V = TypeVar("V")

# ASCII digits only: `\d` would take other scripts' digits for arcs.
_ARC = r"(?:0|[1-9][0-9]*)"
_OID_PAIR = re.compile(rf"(urn:oid:{_ARC}(?:\.{_ARC})*)\|({_ARC})")
_OID_SYSTEM = re.compile(rf"urn:oid:{_ARC}(?:\.{_ARC})*")
_OID_CHILD = re.compile(rf"(urn:oid:{_ARC}(?:\.{_ARC})*)\.{_ARC}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# The system that says of its value "this is a URI"; all copies at once, so that no name costs more than its length.
_URI_SYSTEM = re.compile(r"(?:[uU][rR][nN]:ietf:rfc:3986\|)+(?=.)", re.DOTALL)

SEPARATORS = "./|#:"  # what ends an arc or a segment
LONGEST_SHOWN = 200  # characters of a name in a text: enough for any real one, and a text stays a line

# Registers of persons: the value never appears in a text.
_PERSONS = ("urn:oid:2.16.578.1.12.4.1.4.1", "urn:oid:2.16.578.1.12.4.1.4.2")


def name_key(name: str) -> str:
    """What names are compared by: two names are the same endpoint exactly when their keys are equal (A-3, A-4)."""
    return _remembered(name) if len(name) <= _REMEMBERED_LENGTH else _name_key(name)


_REMEMBERED_LENGTH = 256  # characters; so that a stranger's names cannot fill memory


def _name_key(name: str) -> str:
    if "%" in name:
        name = name.replace("%7C", "|").replace("%7c", "|")
    if name[:4].lower() != "urn:":
        return name
    if name[4:14] == "ietf:rfc:3":
        match = _URI_SYSTEM.match(name)
        if match:
            name = name[match.end() :]
            if name[:4].lower() != "urn:":
                return name
    return _urn_key(name)


_remembered = lru_cache(maxsize=16_384)(_name_key)  # each message asks for the same few names again and again


def _urn_key(name: str) -> str:
    namespace = name[4:9].lower()
    if namespace.startswith("oid:"):
        name = "urn:oid:" + name[8:]
        if "|" in name:
            pair = _OID_PAIR.fullmatch(name)
            if pair:
                return f"{pair[1]}.{pair[2]}"
        return name
    if namespace == "uuid:":
        rest = name[9:]
        hexes = _UUID.match(rest)
        return "urn:uuid:" + (rest[:36].lower() + rest[36:] if hexes else rest)
    return "urn:" + name[4:]


def pair_key(system: str, value: str) -> str:
    """The key of an identifier: that of `system|value`, or of the value alone where no system is given."""
    return name_key(f"{system}|{value}" if system else value)


def shown(name: str) -> str:
    """A name as it may stand in a text: one line, not too long, and no person's number (A-14)."""
    key = name_key(name)
    for register in _PERSONS:
        if key.startswith((f"{register}.", f"{register}|")):
            return f"{register}|…"
    if len(name) > LONGEST_SHOWN:
        name = name[:LONGEST_SHOWN] + "…"
    return name if name.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in name)


def check_name_pattern(pattern: str) -> None:
    """Raise ValueError, saying why, for what is neither a name nor a pattern of names (A-5)."""
    if not pattern:
        raise ValueError("an empty name means nothing; write a URI, system|value, or `*` for any")
    if pattern == "*" or "*" not in pattern:
        return
    if "*" in pattern[:-1]:
        raise ValueError(f"in {shown(pattern)!r}: `*` may stand only at the end of a name")
    if not prefix_of(pattern).endswith(tuple(SEPARATORS)):
        raise ValueError(
            f"in {shown(pattern)!r}: `*` must follow a whole arc or segment, as in `{shown(pattern[:-1])}.*`"
        )
    if name_key(pattern[:-1]) in ("urn:", "urn:ietf:rfc:3986|"):
        raise ValueError(f"{shown(pattern)!r} means no namespace; write `*` for any name")


def is_prefix_pattern(pattern: str) -> bool:
    """Whether this is `X.*`, `X/*`, `X|*`, `X#*` or `X:*`."""
    return len(pattern) > 1 and pattern[-1] == "*"


def prefix_of(pattern: str) -> str:
    """The beginning, separator included, that the keys of the names meant by a prefix pattern share."""
    return name_key(pattern[:-1])


class PrefixTable(Generic[V]):
    """Prefixes of whole arcs or segments, asked for a key, longest first.

    The cost grows with the number of different lengths among the prefixes, not with their number, nor with the
    number of arcs that a stranger writes into a name.
    """

    __slots__ = ("_items", "_lengths", "_pairs")

    def __init__(self, items: Mapping[str, V]) -> None:
        self._items = dict(items)
        self._lengths = tuple(sorted({len(prefix) for prefix in self._items}, reverse=True))
        # `urn:oid:S|*` also means the names that A-4 writes as `urn:oid:S.<arc>`.
        self._pairs = any(_is_oid_pair(prefix) for prefix in self._items)

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def above(self, key: str) -> Iterator[tuple[str, V]]:
        """The prefixes that this key has, longest first; at one length the narrower (`S|*`) before `S.*`."""
        pair = _as_pair(key) if self._pairs else None
        items, size = self._items, len(key)
        for length in self._lengths:
            if length >= size:
                continue
            if pair is not None and length == len(pair) and pair in items:
                yield pair, items[pair]
            prefix = key[:length]
            if prefix in items:
                yield prefix, items[prefix]


def _is_oid_pair(prefix: str) -> bool:
    return prefix.endswith("|") and _OID_SYSTEM.fullmatch(prefix, 0, len(prefix) - 1) is not None


def _as_pair(key: str) -> str | None:
    """`urn:oid:S|` for the key `urn:oid:S.<arc>`."""
    if not key.startswith("urn:oid:"):
        return None
    child = _OID_CHILD.fullmatch(key)
    return child[1] + "|" if child else None


class NamePatterns:
    """Names and patterns of names, any of which may fit."""

    __slots__ = ("_everything", "_exact", "_prefixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        for pattern in patterns:
            check_name_pattern(pattern)
        self._everything = "*" in patterns
        self._exact = frozenset(name_key(p) for p in patterns if not p.endswith("*"))
        self._prefixes = PrefixTable({prefix_of(p): p for p in patterns if is_prefix_pattern(p)})

    def match(self, name: str) -> bool:
        if self._everything:
            return True
        key = name_key(name)
        return key in self._exact or next(self._prefixes.above(key), None) is not None


def name_matches(pattern: str, name: str) -> bool:
    """Whether a name is this one, or is meant by this pattern; compile `NamePatterns` for more than one question."""
    return NamePatterns((pattern,)).match(name)


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """A test of texts by a pattern with `*` anywhere; linear in the text, however many stars."""
    head, *rest = pattern.split("*")
    if not rest:
        return pattern.__eq__
    *middle, tail = rest
    inner = tuple(part for part in middle if part)
    least = len(head) + len(tail)
    if not inner:
        if not head and not tail:
            return lambda text: True
        return lambda text: len(text) >= least and text.startswith(head) and text.endswith(tail)

    def fits(text: str) -> bool:
        end = len(text) - len(tail)
        if end < len(head) or not text.startswith(head) or not text.endswith(tail):
            return False
        at = len(head)
        for part in inner:  # the leftmost place is always good enough
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return fits


def matches_glob(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern with `*` anywhere; `compile_glob` for more than one question."""
    return compile_glob(pattern)(text)

"""Reads search parameters: each is there once, malformed ones are refused by name, unknown ones are told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from broker.core.addressing import shown
from broker.core.outcome import BadRequest, Problem, Severity

Pairs = Sequence[tuple[str, str]]

SILENT = frozenset({"_format", "_pretty"})  # no search parameters: they concern the answer's form alone
WARNINGS = 10  # further ones would only repeat themselves
ALTERNATIVES = 100  # values of one parameter, separated by commas
HIGHEST_POSITION = (1 << 48) - 1  # our ids hold six bytes of it

_TYPED_CHAIN = "message:MessageHeader."  # `message` refers to a MessageHeader anyway
_SPLIT = re.compile(r"(?:\\.|[^,\\])*", re.DOTALL)
_ESCAPED = re.compile(r"\\([\\,|$])")


class Parameters:
    """The parameters of one search, and which of them are known."""

    def __init__(self, pairs: Pairs, *, known: Iterable[str], strict: bool) -> None:
        self._known = frozenset(known)
        self._pairs = [(_plain(name), value) for name, value in pairs]
        self.kept = tuple((n, v) for n, v in self._pairs if n in self._known or n in SILENT)  # for links
        self._check_modifiers()
        unknown = list(dict.fromkeys(n for n, _ in self._pairs if n not in self._known and n not in SILENT))
        self.warnings = tuple(self._unknown(name) for name in unknown[:WARNINGS])
        if strict and unknown:
            first = self.warnings[0]
            raise BadRequest(first.text, code=first.code, id=first.id, expression=first.expression, also=_also(self))

    def _check_modifiers(self) -> None:
        for name, _ in self._pairs:
            stem, colon, modifier = name.partition(":")
            if colon and name not in self._known and stem in self._known:
                raise BadRequest(
                    f"the modifier :{shown(modifier)} of {stem} is not known here; leave it out",
                    code="not-supported",
                    id="unknown-modifier",
                    expression=f"http.{stem}",
                )

    def _unknown(self, name: str) -> Problem:
        near = difflib.get_close_matches(name[:100], sorted(self._known), n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        return Problem(
            code="not-supported",
            id="unknown-parameter",
            severity=Severity.WARNING,
            text=f"the parameter {shown(name)} is not known here and was left out{hint}",
            expression=(f"http.{shown(name)}",),
        )

    def all(self, name: str) -> list[str]:
        values = [value for key, value in self._pairs if key == name]
        for value in values:
            if not value.strip():
                raise malformed(name, "has no value; give it one or leave it out")
        return values

    def once(self, name: str) -> str | None:
        values = self.all(name)
        if len(values) > 1:
            raise malformed(name, f"is there {len(values)} times; give it once")
        return values[0] if values else None

    def any_of(self, name: str) -> tuple[str, ...]:
        """The values of which any may fit: separated by commas, `\\,` where one has a comma of its own."""
        text = self.once(name)
        if text is None:
            return ()
        values = tuple(dict.fromkeys(_ESCAPED.sub(r"\1", value) for value in split(text)))
        if "" in values:
            raise malformed(name, "has an empty value between its commas")
        if len(values) > ALTERNATIVES:
            raise malformed(name, f"has {len(values)} values; ask for at most {ALTERNATIVES} at a time")
        return values

    def number(self, name: str, *, highest: int) -> int | None:
        text = self.once(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > highest:
            raise malformed(name, f"is a whole number from 0 to {highest}")
        return int(text)

    def one_of(self, name: str, allowed: Sequence[str]) -> str | None:
        text = self.once(name)
        if text is not None and text not in allowed:
            raise malformed(name, f"is one of {', '.join(allowed)}")
        return text


def _also(parameters: Parameters) -> tuple[Problem, ...]:
    return parameters.warnings[1:]


def malformed(name: str, why: str) -> BadRequest:
    return BadRequest(f"the parameter {name} {why}", id="bad-parameter", expression=f"http.{name}")


def split(text: str) -> list[str]:
    """The parts of a value between its commas; `\\,` is none."""
    parts, at = [], 0
    while True:
        match = _SPLIT.match(text, at)
        assert match is not None  # it matches the empty text
        end = match.end()
        if end < len(text) and text[end] == "\\":  # a lone one at the very end
            end += 1
        parts.append(text[at:end])
        if end >= len(text):
            return parts
        at = end + 1


def url(base: str, path: str, pairs: Pairs) -> str:
    """An absolute URL with a query that says exactly these values, `+` and `|` encoded (M-63)."""
    query = "&".join(f"{quote(name, safe=':')}={quote(value, safe=':/')}" for name, value in pairs)
    return f"{base}/{path}?{query}" if query else f"{base}/{path}"


def _plain(name: str) -> str:
    return "message." + name[len(_TYPED_CHAIN) :] if name.startswith(_TYPED_CHAIN) else name

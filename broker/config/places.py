"""A YAML file as a tree of places: what each value is, and where it and its key stand.

Scalars stay text until a setting asks for a number or a yes: so `no` is a word, `4.0` keeps its nought, and a value
that was substituted counts as if it had been written there. What was *written* is kept beside it, for messages: they
show `${PASSWORD}`, never what it stands for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from broker.config.mistake import ConfigurationErrors, Mistake
from broker.config.substitution import Substitution

_BYTE_ORDER_MARK = "\ufeff"
_STANDARD_TAG = "tag:yaml.org,2002:"
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})  # YAML 1.2, core schema, unquoted
_USERINFO = re.compile(r"(?<=://)\S*@")  # up to the last @: a password may hold any character

Step = str | int
Steps = tuple[Step, ...]
Plain = dict[str, "Plain"] | list["Plain"] | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One value of the file."""

    line: int
    column: int
    key: tuple[int, int] | None = None  # where its key stands, if it has one
    holds: dict[str, Place] | list[Place] | str | None
    written: str = ""  # a scalar before substitution

    @property
    def kind(self) -> str:
        match self.holds:
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case str():
                return "text"
            case _:
                return "nothing"

    @property
    def shown(self) -> str:
        """A scalar as a message may show it: as written, and without the user part of a URL."""
        return without_user(self.written)

    @property
    def is_substituted(self) -> bool:
        """Then what it holds, and any hint made of it, must not be shown."""
        return isinstance(self.holds, str) and self.holds != self.written

    @property
    def start(self) -> tuple[int, int]:
        """Where to point: at the value, or at the key where there is no value."""
        return self.key if self.holds is None and self.key else (self.line, self.column)

    @property
    def named(self) -> tuple[int, int]:
        """Where its key stands; of a list's item, where it starts."""
        return self.key or (self.line, self.column)

    def child(self, step: Step) -> Place | None:
        if isinstance(self.holds, dict):
            return self.holds.get(str(step))
        if isinstance(self.holds, list) and isinstance(step, int) and step < len(self.holds):
            return self.holds[step]
        return None

    def follow(self, path: Sequence[Step]) -> Steps:
        """The steps of a path that are in the file: what the form adds (the branch of a union) is left out."""
        here, steps = self, []
        for step in path:
            if (below := here.child(step)) is not None:
                here = below
                steps.append(step)
        return tuple(steps)

    def at(self, path: Sequence[Step]) -> Place:
        """The place that a path leads to, or the last one on the way to it."""
        here = self
        for step in path:
            here = here.child(step) or here
        return here

    def has(self, *path: Step) -> bool:
        return self.follow(path) == path

    def keys(self, *path: Step) -> tuple[str, ...]:
        place = self.at(path) if self.has(*path) else None
        return tuple(place.holds) if place and isinstance(place.holds, dict) else ()

    def plain(self) -> Plain:
        """The values alone."""
        if isinstance(self.holds, dict):
            return {key: place.plain() for key, place in self.holds.items()}
        if isinstance(self.holds, list):
            return [place.plain() for place in self.holds]
        return self.holds


def without_user(text: str) -> str:
    """The text, without the user parts of URLs in it."""
    return _USERINFO.sub("…@", text)


class Reader:
    """Reads one file; collects its mistakes instead of stopping at the first, as far as its syntax lets it."""

    def __init__(self, file: str, substitution: Substitution) -> None:
        self.file = file
        self.mistakes: list[Mistake] = []
        self._substitution = substitution

    def read(self) -> Place:
        text = self._text()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an anchor named twice is YAML's own business
                node = YAML(typ="safe", pure=True).compose(text)
        except ReaderError as error:
            self._stop(*_line_and_column(text, error.position), "this character is not allowed in YAML")
        except MarkedYAMLError as error:
            raise ConfigurationErrors([*self.mistakes, self._syntax(error, text)]) from None
        except YAMLError as error:  # pragma: no cover - the two above are all that the composer raises
            self._stop(1, 1, f"this is not YAML: {error}")
        if node is None:
            self._stop(1, 1, "the file is empty", "fhir-broker init writes a starter")
        return self._place(node, key=None, above=())

    def _text(self) -> str:
        try:
            content = Path(self.file).read_bytes()
        except FileNotFoundError:
            self._stop(1, 1, "there is no such file", "fhir-broker init writes a starter")
        except OSError as error:
            self._stop(1, 1, f"the file cannot be read: {error.strerror}")
        try:
            return content.decode().removeprefix(_BYTE_ORDER_MARK)
        except UnicodeDecodeError as error:
            before = content[: error.start].decode().removeprefix(_BYTE_ORDER_MARK)
            self._stop(*_line_and_column(before, len(before)), "this is not UTF-8", "save the file as UTF-8")

    def _stop(self, line: int, column: int, text: str, hint: str = "") -> Never:
        raise ConfigurationErrors(
            [*self.mistakes, Mistake(file=self.file, line=line, column=column, text=text, hint=hint)]
        )

    def _add(self, at: tuple[int, int], text: str, hint: str = "") -> None:
        self.mistakes.append(Mistake(file=self.file, line=at[0], column=at[1], text=text, hint=hint))

    def _syntax(self, error: MarkedYAMLError, text: str) -> Mistake:
        unclosed = "quoted scalar" in str(error.context) and "end of" in str(error.problem)
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        lines = text.splitlines()
        said, hint = _in_our_words(str(error.problem), lines[line - 1] if line <= len(lines) else "")
        if unclosed:
            said, hint = "this quote is not closed", ""
        return Mistake(file=self.file, line=line, column=column, text=said, hint=hint)

    def _place(self, node: Node, *, key: tuple[int, int] | None, above: tuple[int, ...]) -> Place:
        line, column = _start(node)
        if id(node) in above:
            self._add((line, column), "this alias contains itself")
            return Place(line=line, column=column, key=key, holds=None)
        above = (*above, id(node))
        if isinstance(node, MappingNode):
            return Place(line=line, column=column, key=key, holds=dict(self._entries(node, above)))
        if isinstance(node, SequenceNode):
            items = [self._place(item, key=None, above=above) for item in node.value]
            return Place(line=line, column=column, key=key, holds=items)
        return self._scalar(node, line=line, column=column, key=key)

    def _entries(self, node: MappingNode, above: tuple[int, ...]) -> Iterator[tuple[str, Place]]:
        first: dict[str, int] = {}
        for key, value in node.value:
            at = _start(key)
            if not isinstance(key, ScalarNode):
                self._add(at, f"a key must be text, not {_KINDS[type(key)]}", "put quotes around the value")
            elif key.value in first:
                self._add(at, f"`{key.value}` is written twice", f"first in line {first[key.value]}")
            elif "${" in key.value:
                self._add(at, "${…} is substituted in values only, not in keys")
            else:
                first[key.value] = at[0]
                yield key.value, self._place(value, key=at, above=above)

    def _scalar(self, node: Node, *, line: int, column: int, key: tuple[int, int] | None) -> Place:
        written = str(node.value)
        tag = str(node.tag or "")
        if not tag.startswith(_STANDARD_TAG):
            self._add((line, column), f"the tag {tag} means nothing here", "put quotes around the value")
        if isinstance(node, ScalarNode) and node.style is None and written in _NOTHING:
            return Place(line=line, column=column, key=key, holds=None)
        text, problems = self._substitution.into(written)
        for problem in problems:
            self._add((line, column), str(problem), problem.hint)
        return Place(line=line, column=column, key=key, holds=text, written=written)


_KINDS: dict[type[Node], str] = {MappingNode: "a mapping", SequenceNode: "a list"}


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _in_our_words(problem: str, line: str) -> tuple[str, str]:
    """What the parser says, for somebody who does not know its grammar."""
    if "\\t" in problem:
        return "a tab cannot indent", "use spaces"
    if "another document" in problem:
        return "a second document begins here", "one file is one configuration"
    if "undefined alias" in problem:
        return problem.replace("found undefined alias", "there is no anchor for the alias"), "quote a leading *"
    if "${" in line and "expected ',' or" in problem:
        return "inside { } and [ ] a ${…} needs quotes around it", ""
    if "expected ',' or" in problem:
        return "a `,` or the closing bracket is missing before this", ""
    if "mapping values are not allowed" in problem:
        return "a `:` does not fit here", 'wrong indentation, or quotes missing around a value such as "mailbox:"'
    if "cannot start any token" in problem:
        return "a value cannot begin with this character", "put quotes around the value"
    if "block end" in problem or "sequence entries" in problem:
        return "the indentation does not fit the lines above", ""
    return f"this is not YAML: {problem}", ""

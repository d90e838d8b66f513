"""Reads endpoints that a person wrote: the `endpoints` of the configuration, and YAML files of the same shape."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from broker.core.address_pattern import AddressPattern
from broker.core.addressing import check_name_pattern, is_prefix_pattern, name_key, prefix_of, shown
from broker.core.resolution import How
from broker.directory.problem import DirectoryProblem
from broker.directory.snapshot import Entry, Listed, Mode

DIRECT = "direct"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[\x21-\x7e]*")
_KEYS = ("endpoints", "aliases")


class Content(NamedTuple):
    """What a source says."""

    listed: tuple[Listed, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()  # other form, name
    problems: tuple[DirectoryProblem, ...] = ()


class Unreadable(Exception):
    """A file that is not what it should be at all: its last good content stays in use."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


class _At(NamedTuple):
    """A value with the line on which it stands."""

    value: object
    line: int | None


def read_endpoints(endpoints: Mapping[str, object], *, file: str, lines: Mapping[str, int] | None = None) -> Content:
    """The mapping of names to addresses, lists, or `{first: […]}`."""
    pairs = [(_At(name, (lines or {}).get(name)), value) for name, value in endpoints.items()]
    return _Reading(file).endpoints(pairs)


def read_file(text: str, *, file: str) -> Content:
    """A YAML (or JSON) file with `endpoints` and, if there are any, `aliases`."""
    top = _json(text) if text.lstrip()[:1] == "{" else None
    if top is None:
        top = _yaml(text)
    reading = _Reading(file)
    listed: list[Listed] = []
    aliases: tuple[tuple[str, str], ...] = ()
    for key, value in top:
        if key.value not in _KEYS:
            reading.problem(key.line, f"unknown key {key.value!r}; known are {', '.join(_KEYS)}")
        elif value in ("", ()):  # nothing written after the colon, or {} in JSON
            continue
        elif not isinstance(value, list):
            reading.problem(key.line, f"{key.value} must be a mapping")
        elif key.value == "endpoints":
            listed += reading.endpoints(value).listed
        else:
            aliases += reading.aliases(value)
    return Content(tuple(listed), aliases, tuple(reading.problems))


# Both readers give a mapping as a list of (key, value), so that keys written twice are seen; a sequence as a tuple.


def _json(text: str) -> list[tuple[_At, object]] | None:
    """JSON is read by the parser of the standard library: fifty times the speed of YAML, for large directories."""

    def mapping(pairs: list[tuple[str, object]]) -> list[tuple[_At, object]]:
        return [(_At(key, None), _sequence(value)) for key, value in pairs]

    try:
        read = json.loads(text, object_pairs_hook=mapping)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, list) else None


def _sequence(value: object) -> object:
    """A JSON array as a tuple; a mapping has been read already and stays the list of pairs that it is."""
    if isinstance(value, list) and not (value and isinstance(value[0], tuple)):
        return tuple(value)
    return value


def _yaml(text: str) -> list[tuple[_At, object]]:
    try:
        # The nodes, not their values: they know their lines, and every scalar stays the text that was written.
        node = YAML(typ="safe", pure=True).compose(text)
        read = _value(node, {}) if node is not None else []
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "; ".join(str(part) for part in (error.context, error.problem) if part)
        if "mapping values are not allowed" in what:
            what += '; an address that ends in a colon needs quotes: "mailbox:"'
        raise Unreadable(f"this is no YAML: {what}", mark.line + 1 if mark else None) from None
    except (YAMLError, ValueError) as error:
        raise Unreadable(f"this is no YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise Unreadable("this is nested too deeply, or an anchor contains itself") from None
    if not isinstance(read, list):
        raise Unreadable("a directory file is a mapping with the key `endpoints`", 1)
    return read


def _value(node: Node, known: dict[int, object]) -> object:
    """What a node says; each node once, so that anchors of anchors cannot grow without end."""
    if isinstance(node, ScalarNode):
        return node.value
    if id(node) not in known:
        if isinstance(node, MappingNode):
            known[id(node)] = [(_key(key), _value(value, known)) for key, value in node.value]
        elif isinstance(node, SequenceNode):
            known[id(node)] = tuple(_value(one, known) for one in node.value)
    return known[id(node)]


def _key(node: Node) -> _At:
    return _At(node.value if isinstance(node, ScalarNode) else None, node.start_mark.line + 1)


class _Reading:
    """One source being read: what is wrong is collected, what is right is kept."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[DirectoryProblem] = []

    def problem(self, line: int | None, text: str) -> None:
        self.problems.append(DirectoryProblem(file=self.file, line=line, text=text))

    def endpoints(self, pairs: list[tuple[_At, object]]) -> Content:
        listed: list[Listed] = []
        seen: dict[str, _At] = {}
        for key, value in pairs:
            name = key.value
            if not isinstance(name, str):
                self.problem(key.line, "a name is a text")
                continue
            try:
                line = self._line(name, value, key.line)
            except ValueError as error:
                self.problem(key.line, str(error))
                continue
            same = seen.setdefault(_identity(line), key)
            if same is not key:
                where = f"on line {same.line}" if same.line else f"as {shown(str(same.value))!r}"
                self.problem(key.line, f"{shown(name)!r} is here twice: it stands {where} already")
                continue
            listed.append(line)
        return Content(tuple(listed), (), tuple(self.problems))

    def _line(self, name: str, value: object, line: int | None) -> Listed:
        origin = f"{self.file}:{line}" if line else self.file
        addresses, mode = _addresses(name, value)
        if addresses == (DIRECT,):
            return _direct(name, origin)
        check_name_pattern(name)
        for address in addresses:
            _check_address(name, address)
        how = How.DEFAULT if name == "*" else How.PREFIX if is_prefix_pattern(name) else How.EXACT
        entry = Entry(names=(name,), addresses=addresses, mode=mode, origin=origin)
        return Listed(name=name, how=how, entries=(entry,))

    def aliases(self, pairs: list[tuple[_At, object]]) -> tuple[tuple[str, str], ...]:
        """`name: [other forms]`; `system|*: [old system|*]` says it of a whole system (A-18)."""
        found: dict[str, str] = {}
        for key, value in pairs:
            name, forms = key.value, (value,) if isinstance(value, str) else value
            if not isinstance(name, str) or not isinstance(forms, tuple):
                self.problem(key.line, "aliases are written `name: [other form, …]`")
                continue
            for form in forms:
                try:
                    _check_alias(name, form)
                except ValueError as error:
                    self.problem(key.line, str(error))
                    continue
                if found.setdefault(form, name) != name:
                    self.problem(key.line, f"{shown(form)!r} is another form of {shown(found[form])!r} already")
        return tuple(found.items())


def _identity(line: Listed) -> str:
    """What two lines share that mean the same names."""
    if line.how is How.EXACT:
        return "=" + name_key(line.name)
    return f"{line.how.value} " + (prefix_of(line.name) if line.how is How.PREFIX else line.name)


def _direct(name: str, origin: str) -> Listed:
    if "*" in name:
        if "://" not in name:
            raise ValueError(
                f"{shown(name)!r} is no URL, so it cannot be `direct`: a name that is no address needs one"
            )
        return Listed(
            name=AddressPattern.parse(name).text,
            how=How.DIRECT,
            entries=(Entry(names=(name,), addresses=(), origin=origin),),
        )
    _check_address(name, name)
    return Listed(name=name, how=How.EXACT, entries=(Entry(names=(name,), addresses=(name,), origin=origin),))


def _addresses(name: str, value: object) -> tuple[tuple[str, ...], Mode]:
    mode = Mode.ALL
    inner = value
    if isinstance(value, Mapping):
        inner = [(_At(key, None), one) for key, one in value.items()]
    if isinstance(inner, list) and inner and isinstance(inner[0], tuple) and isinstance(inner[0][0], _At):
        keys = [key.value for key, _ in inner]
        if keys != ["first"]:
            raise ValueError(f"{shown(name)!r}: the only key here is `first`, not {', '.join(map(str, keys))}")
        mode, inner = Mode.FIRST, inner[0][1]
    addresses = (inner,) if isinstance(inner, str) else inner
    if not isinstance(addresses, list | tuple) or not all(isinstance(one, str) for one in addresses):
        raise ValueError(f"{shown(name)!r}: write an address, a list of them, or {{first: [address, …]}}")
    if not addresses:
        raise ValueError(f"{shown(name)!r} has no address")
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"{shown(name)!r} has the same address twice")
    if DIRECT in addresses and len(addresses) > 1:
        raise ValueError(f"{shown(name)!r}: `direct` stands alone, not in a list")
    return tuple(addresses), mode


def _check_address(name: str, address: str) -> None:
    if not _ADDRESS.fullmatch(address):
        raise ValueError(
            f"{shown(name)!r}: {shown(address)!r} is no address; it begins with the scheme of a channel, as in "
            "https://… or mailbox:, and has neither spaces nor characters outside ASCII"
        )


def _check_alias(name: str, form: object) -> None:
    if not isinstance(form, str):
        raise ValueError(f"another form of {shown(name)!r} is a text")
    check_name_pattern(name)
    check_name_pattern(form)
    if "*" in (name, form) or is_prefix_pattern(name) != is_prefix_pattern(form):
        raise ValueError(f"{shown(form)!r} is no other form of {shown(name)!r}: both end in `*`, or neither")

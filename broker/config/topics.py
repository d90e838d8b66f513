"""The topics that may be subscribed to: read from files, and every mistake in them named with its place.

YAML is our own short form, one topic or a list of them. JSON and XML are SubscriptionTopic resources. Of JSON, too, the
place of an element is known: it is YAML to whoever reads places.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from broker.config.mistake import ConfigurationErrors, Mistake, did_you_mean
from broker.config.places import Place, Reader
from broker.config.substitution import Substitution
from broker.core.fhir.header import Format
from broker.core.outcome import Problem, Refusal, Severity
from broker.core.subscription.topic import Topic
from broker.core.subscription.topic_form import topic_from
from broker.core.subscription.topic_resource import read_topic

_YAML = frozenset({".yaml", ".yml"})
_FORMATS = {".json": Format.JSON, ".xml": Format.XML}
_TOPIC = "topic"  # how the short form calls itself in what it says
_UNKNOWN = "unknown-key"
_LINE = re.compile(r" at line (\d+), column (\d+)")
_NEAR = re.compile(r"is '(.*)' meant")


def read_topics(
    patterns: Sequence[str], *, file: Path, places: Place, env: Mapping[str, str], without_previous: bool
) -> tuple[tuple[Topic, ...], list[Mistake]]:
    """The topics, and what is wrong with them. `places` is where the patterns stand in the configuration, `file`."""
    topics = _Topics(file.parent, env, without_previous)
    for index, pattern in enumerate(patterns):
        place = places.child(index) or places
        topics.add(pattern, str(file), place)
    return tuple(topics.topics), topics.mistakes


class _Topics:
    def __init__(self, folder: Path, env: Mapping[str, str], without_previous: bool) -> None:
        self.topics: list[Topic] = []
        self.mistakes: list[Mistake] = []
        self._folder = folder
        self._env = env
        self._without_previous = without_previous
        self._read: set[Path] = set()  # a file that two patterns name is read once
        self._first: dict[tuple[str, str], str] = {}  # url and version, and where they stand

    def add(self, pattern: str, file: str, place: Place) -> None:
        """All that a pattern names; that it names nothing is said at its place in the configuration."""
        found = self._found(pattern)
        if not found:
            text = f"`topics`: there is no file `{place.shown}`"
            severity = Severity.WARNING if glob.has_magic(pattern) else Severity.ERROR
            line, column = place.start
            self.mistakes.append(Mistake(file=file, line=line, column=column, text=text, severity=severity))
        for path in found:
            if path not in self._read:
                self._read.add(path)
                self._file(path)

    def _found(self, pattern: str) -> list[Path]:
        path = os.path.normpath(self._folder / pattern)
        names = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
        return [Path(name) for name in names if os.path.isfile(name)]

    def _file(self, path: Path) -> None:
        if path.suffix in _YAML:
            self._short(path)
        elif path.suffix in _FORMATS:
            self._resource(path, _FORMATS[path.suffix])
        else:
            hint = did_you_mean(path.suffix, (*_YAML, *_FORMATS)) or ".yaml, .json or .xml"
            self._add(path, (1, 1), "the file's name does not say what is in it", hint)

    # -- our own short form

    def _short(self, path: Path) -> None:
        reader = Reader(str(path), Substitution(env=self._env, folder=path.parent))
        try:
            root = reader.read()
        except ConfigurationErrors as errors:
            self.mistakes += [msgspec.structs.replace(mistake, hint="") for mistake in errors.mistakes]
            return
        self.mistakes += reader.mistakes
        unread = {(mistake.line, mistake.column) for mistake in reader.mistakes}
        for place in root.holds if isinstance(root.holds, list) else [root]:
            self._one(path, place, unread)

    def _one(self, path: Path, place: Place, unread: set[tuple[int, int]]) -> None:
        if place.kind != "a mapping":
            self._add(path, place.start, f"a topic must be a mapping, not {place.kind}")
            return
        try:
            self._keep(path, place, topic_from(place.plain(), where=_TOPIC))
        except Refusal as refusal:
            for problem in refusal.problems:
                where = _where(problem).removeprefix(_TOPIC).removeprefix(".")
                at = _at(place, where)
                text, hint = _in_our_words(problem, where, at)
                start = at.named if problem.id == _UNKNOWN else at.start
                if start not in unread:
                    self._add(path, start, text, hint)

    # -- resources

    def _resource(self, path: Path, format: Format) -> None:
        try:
            body = path.read_bytes()
        except OSError as error:
            self._add(path, (1, 1), f"the file cannot be read: {error.strerror}")
            return
        places = _places_of_json(path) if format is Format.JSON else None
        try:
            topic = read_topic(body, format=format, without_previous=self._without_previous)
        except Refusal as refusal:
            for problem in refusal.problems:
                where = _where(problem).partition(".")[2]
                at = _at(places, where).start if places and where else _said_at(problem)
                hint = "without_previous: true" if problem.id == "needs-previous-state" else ""
                self._add(path, at, _of_a_file(problem.text), hint)
            return
        self._keep(path, places or Place(line=1, column=1, holds=None), topic)

    # -- both

    def _keep(self, path: Path, place: Place, topic: Topic) -> None:
        line, column = place.at(("url",)).start
        first = self._first.setdefault((topic.url, topic.version), f"{path}:{line}")
        if first != f"{path}:{line}":
            name = f"{topic.url}|{topic.version}" if topic.version else topic.url
            self._add(path, (line, column), f"there is a topic `{name}` already", f"the first is in {first}")
            return
        self.topics.append(topic)

    def _add(self, path: Path, at: tuple[int, int], text: str, hint: str = "") -> None:
        self.mistakes.append(Mistake(file=str(path), line=at[0], column=at[1], text=text, hint=hint))


def _where(problem: Problem) -> str:
    return problem.expression[0] if problem.expression else ""


def _at(place: Place, where: str) -> Place:
    """The place of `on[0].event`, or the last one on the way to it; keys may have dots and brackets of their own."""
    rest, found = where, place
    while rest and (step := next(_steps(found, rest), None)):
        found, rest = step
    return found


def _steps(place: Place, rest: str) -> Iterator[tuple[Place, str]]:
    """The next place, and what is left to follow; of several keys that fit, the longest."""
    if isinstance(place.holds, list):
        number, bracket, left = rest.removeprefix("[").partition("]")
        if bracket and rest.startswith("[") and number.isdigit() and int(number) < len(place.holds):
            yield place.holds[int(number)], left.removeprefix(".")
    elif isinstance(place.holds, dict):
        for key in sorted(place.holds, key=len, reverse=True):
            left = rest.removeprefix(key)
            if rest.startswith(key) and left[:1] in ("", ".", "["):
                yield place.holds[key], left.removeprefix(".")
                return
        if rest.startswith("[0]"):  # one that is as good as a list of it
            yield place, rest.removeprefix("[0]").removeprefix(".")
    elif rest.startswith("[0]"):
        yield place, rest.removeprefix("[0]").removeprefix(".")


def _in_our_words(problem: Problem, where: str, place: Place) -> tuple[str, str]:
    """As the configuration's own mistakes are told; what was substituted is not shown."""
    key = f"`{where}`" if where else "a topic"
    text = problem.text.removeprefix(_where(problem)).strip().rstrip(".")
    if problem.id == _UNKNOWN:
        near = _NEAR.search(text)
        return f"unknown key {key}", f"did you mean {near[1]}?" if near else text.partition("; ")[2]
    if place.is_substituted:
        return f"{key} cannot be used with what stands in the place of `{place.shown}`", ""
    return f"{key} {text}", ""


def _said_at(problem: Problem) -> tuple[int, int]:
    """Where a file that cannot be read at all stops making sense."""
    place = _LINE.search(problem.text)
    return (int(place[1]), int(place[2])) if place else (1, 1)


def _of_a_file(text: str) -> str:
    """What is said of a body that somebody sent."""
    return _LINE.sub("", text.replace("The body ", "the file ")).partition(". Correct it")[0].rstrip(".")


def _places_of_json(path: Path) -> Place | None:
    """Where things stand in a JSON file; None where a reader of YAML does not make it out."""
    try:
        return Reader(str(path), Substitution(env={}, folder=path.parent)).read()
    except ConfigurationErrors:
        return None

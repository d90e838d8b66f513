"""Reads a configuration file into settings, or says everything that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from broker.channel import ChannelSpec
from broker.config import forms, rule_sense, sense, subscription_sense
from broker.config.addresses import Addresses
from broker.config.blocks import form_of
from broker.config.complaints import Complaints
from broker.config.freeze import frozen
from broker.config.installed import Installed
from broker.config.mistake import ConfigurationErrors, Mistake, in_order
from broker.config.places import Place, Reader, Steps
from broker.config.settings import Settings, Subscriptions
from broker.config.subject import Subject
from broker.config.substitution import Substitution
from broker.config.topics import read_topics
from broker.config.whole import whole_form
from broker.core.outcome import Severity

_ROUNDS = 5  # of leaving out what is wrong; what then still fails has been named anyway
_STAND_IN = {"endpoint": "urn:oid:2.999", "base_url": "http://localhost/fhir"}  # where `broker` itself is wrong


def load(
    path: str | Path,
    *,
    env: Mapping[str, str] | None = None,
    channels: Mapping[str, ChannelSpec] | None = None,
    insecure: bool = False,
) -> Settings:
    """The settings of a file; raises `ConfigurationErrors` with every mistake at once."""
    file = Path(path)
    env = os.environ if env is None else env
    reader = Reader(str(file), Substitution(env=env, folder=file.parent))
    root = reader.read()
    channels = Installed(_plugin_folders(root, file.parent), entries=channels)
    reading = _Reading(file, root, channels, insecure, env)
    settings = reading.settings()
    found = list(reading.mistakes)
    if settings is not None:
        addresses = Addresses(reading.channels, installed=channels, base_url=settings.broker.base_url)
        subject = Subject(settings, root, addresses)
        for sensible in (sense, rule_sense, subscription_sense):
            found += sensible.contradictions(subject)
    unread = {(mistake.file, mistake.line, mistake.column) for mistake in reader.mistakes}
    found = [one for one in found if (one.file, one.line, one.column) not in unread]
    found = sorted([*reader.mistakes, *found], key=lambda one: one.file != str(file))  # ours before those of its topics
    if settings is None or any(mistake.severity is Severity.ERROR for mistake in found):
        # Once something is left out, what looks unreachable may not be: warnings wait for a file without mistakes.
        raise ConfigurationErrors(mistake for mistake in found if mistake.severity is Severity.ERROR)
    return msgspec.structs.replace(settings, warnings=in_order(found))


def _plugin_folders(root: Place, folder: Path) -> list[Path]:
    """Read before the form, which is made of what stands in them; what is no text, the form will say."""
    said = root.plain()
    value = said.get("plugins") if isinstance(said, dict) else None
    return [folder / one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]


class _Reading:
    """One file on its way through the form: what is wrong is named, left out, and the rest is read on."""

    def __init__(
        self, file: Path, root: Place, channels: Mapping[str, ChannelSpec], insecure: bool, env: Mapping[str, str]
    ) -> None:
        self.mistakes: list[Mistake] = []
        self._file = file
        self._root = root
        self._known = tuple(channels)
        self.channels = self._loaded(channels)
        self._insecure = insecure
        self._env = env
        self._form = whole_form(self.channels)

    def _loaded(self, channels: Mapping[str, ChannelSpec]) -> dict[str, ChannelSpec]:
        """The channels that the file names; the others are not even imported."""
        loaded: dict[str, ChannelSpec] = {}
        speaks: dict[str, str] = {}
        for name in self._root.keys("channels"):
            try:
                if name in channels:
                    spec = channels[name]
                    _check_form(spec)
                    for scheme in spec.schemes:
                        if (other := speaks.setdefault(scheme, name)) != name:
                            raise ValueError(f"{scheme}: addresses belong to the channel {other} already")
                    loaded[name] = spec
            except (ImportError, ValueError) as error:
                line, column = self._root.at(("channels", name)).named
                text = f"the channel {name} cannot be loaded: {error}"
                self.mistakes.append(Mistake(file=str(self._file), line=line, column=column, text=text))
        return loaded

    def settings(self) -> Settings | None:
        data: Any = self._root.plain()
        for round_ in range(_ROUNDS):
            try:
                form = self._form.model_validate(data)
            except ValidationError as error:
                complaints = Complaints(str(self._file), self._root, self._form.model_json_schema(), self._known)
                found = complaints.of(error)
                if round_ == 0:
                    self.mistakes += [mistake for path, mistake in found if not self._is_broken_channel(path)]
                data = data if isinstance(data, dict) else {}
                for path, _ in found:
                    _leave_out(data, path)
                broker = data.get("broker")
                data["broker"] = {**_STAND_IN, **(broker if isinstance(broker, dict) else {})}
            else:
                made = frozen(form, root=self._root, file=self._file, channels=self.channels, insecure=self._insecure)
                if form.subscriptions is None or made.subscriptions is None:
                    return made
                subscriptions = self._with_topics(made.subscriptions, form.subscriptions)
                return msgspec.structs.replace(made, subscriptions=subscriptions)
        return None

    def _with_topics(self, subscriptions: Subscriptions, form: forms.Subscriptions) -> Subscriptions:
        topics, mistakes = read_topics(
            form.topics,
            file=self._file,
            places=self._root.at(("subscriptions", "topics")),
            env=self._env,
            without_previous=form.without_previous,
        )
        self.mistakes += mistakes
        return msgspec.structs.replace(subscriptions, topics=topics)

    def _is_broken_channel(self, path: Steps) -> bool:
        """A channel that could not be loaded has no form, which is not the file's fault."""
        return path[:1] == ("channels",) and len(path) == 2 and path[1] in self._known and path[1] not in self.channels


def _check_form(spec: ChannelSpec) -> None:
    """Raises ValueError where a plugin's settings declare what cannot be read from a file."""
    try:
        form_of(spec.settings)
    except Exception as error:  # pydantic's, of hints that it does not know, or Python's, of names that it does not
        why = str(error).partition("\n")[0]
        raise ValueError(f"its settings cannot be read from a file: {why}") from error


def _leave_out(data: dict[str, Any], path: Steps) -> None:
    """Takes out what stands at a path; the number of rules stays, since they are known by it."""
    while path and isinstance(path[-1], int) and len(path) > 2:
        path = path[:-1]  # a list with a wrong item goes as a whole
    if path[:1] == ("routes",) and len(path) == 2:
        data["routes"][path[1]] = {}
    elif path:
        above: Any = data
        for step in path[:-1]:
            above = above.get(step, {}) if isinstance(above, dict) else above[step]
        if isinstance(above, dict):
            above.pop(path[-1], None)

"""What the checks of `sense` and `rule_sense` look at: well-formed settings, with the file beside them to point at."""

from __future__ import annotations

from broker.config.addresses import Addresses
from broker.config.mistake import Mistake, Wrong
from broker.config.places import Place, Steps
from broker.config.settings import Settings
from broker.core.outcome import Severity


class Subject:
    def __init__(self, settings: Settings, root: Place, addresses: Addresses) -> None:
        self.settings = settings
        self.root = root
        self._addresses = addresses

    def shown(self, path: Steps, value: object) -> str:
        """A value as it was written; one that is not in the file, as it is."""
        return (self.root.at(path).shown if self.root.has(*path) else "") or str(value)

    def mistake(self, path: Steps, text: str, hint: str = "", *, severity: Severity = Severity.ERROR) -> Mistake:
        """At the value of a path, or at the last place on the way to it."""
        line, column = self.root.at(path).start
        return self._at(line, column, text, hint, severity)

    def mistake_at_key(self, path: Steps, text: str, hint: str = "") -> Mistake:
        line, column = self.root.at(path).named
        return self._at(line, column, text, hint, Severity.ERROR)

    def warning(self, path: Steps, text: str, hint: str = "") -> Mistake:
        return self.mistake(path, text, hint, severity=Severity.WARNING)

    def address(self, path: Steps, address: str) -> list[Mistake]:
        """What is wrong with an address, shown as it was written."""
        place = self.root.at(path)
        try:
            self._addresses.check(address)
        except Wrong as wrong:
            hint = "" if place.is_substituted else wrong.hint
            return [self.mistake(path, f"the address `{place.shown}` {wrong}", hint)]
        return []

    def direct(self, path: Steps, name: str) -> list[Mistake]:
        """What is wrong with an endpoint that is to be its own address."""
        try:
            self._addresses.check(name)
        except Wrong as wrong:
            return [self.mistake_at_key(path, f"the address `{name}` {wrong}", wrong.hint)]
        return []

    def scheme(self, path: Steps, scheme: str, shown: str) -> list[Mistake]:
        try:
            self._addresses.scheme(scheme)
        except Wrong as wrong:
            return [self.mistake_at_key(path, f"`{shown}` {wrong}", wrong.hint)]
        return []

    def _at(self, line: int, column: int, text: str, hint: str, severity: Severity) -> Mistake:
        file = str(self.settings.file)
        return Mistake(file=file, line=line, column=column, text=text, hint=hint, severity=severity)

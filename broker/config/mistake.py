"""What is wrong with a configuration, and where: all of it at once, each with a place and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from broker.core.outcome import Severity


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator has to put right (or, as a warning, should look at)."""

    file: str
    line: int  # the first is 1
    column: int  # the first is 1
    text: str
    hint: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        warning = "warning: " if self.severity is Severity.WARNING else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {warning}{self.text}{hint}"


class ConfigurationErrors(Exception):
    """The configuration cannot be used; `mistakes` are in the order of the files."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = in_order(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class Wrong(ValueError):
    """One value is wrong; the text goes on after the name of its key: "must be …"."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def in_order(mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    """By file, as they come, and place; each once."""
    files: dict[str, int] = {}
    once = dict.fromkeys(
        (files.setdefault(m.file, len(files)), m.line, m.column, m.text, m.hint, m.file, m.severity) for m in mistakes
    )
    return tuple(
        Mistake(file=file, line=line, column=column, text=text, hint=hint, severity=severity)
        for _, line, column, text, hint, file, severity in sorted(once)
    )


def did_you_mean(written: str, known: Iterable[str]) -> str:
    """A hint at the known word that is nearest, or nothing."""
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(written.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]}?" if near else ""

"""Takes elements out of a resource's values one by one, and collects what is wrong with them: every mistake at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from broker.core.outcome import Problem, SubscriptionRefused

Values = dict[str, Any]
MOST_PROBLEMS = 20  # a client mends a few at a time, and an answer stays short


class Complaints:
    """What is wrong with a resource; raised as one refusal."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __call__(self, where: str, text: str, *, id: str = "invalid-value", code: str = "value") -> None:
        self.problems.append(Problem(code=code, id=id, text=f"{where} {text}", expression=(where,)))

    def missing(self, where: str, why: str = "") -> None:
        self(where, f"is missing{': ' + why if why else ''}.", id="missing-element", code="required")

    def raise_if_any(self) -> None:
        if not self.problems:
            return
        first, *others = self.problems[:MOST_PROBLEMS]
        raise SubscriptionRefused(
            first.text, code=first.code, id=first.id, expression=first.expression, also=tuple(others)
        )


class Element:
    """The values of one element and where it stands."""

    def __init__(self, values: Any, where: str, complain: Complaints) -> None:
        self.where = where
        self.complain = complain
        if not isinstance(values, dict):
            complain(where, "must be an object.", id="wrong-type", code="structure")
            values = {}
        self.values: Values = values

    def at(self, name: str) -> str:
        return f"{self.where}.{name}"

    def text(self, name: str, *, required: bool = False) -> str:
        value = self.values.get(name)
        if value is None:
            if required:
                self.complain.missing(self.at(name))
            return ""
        if not isinstance(value, str) or not value.strip():
            self.complain(self.at(name), "must be a text.", id="wrong-type", code="structure")
            return ""
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; a text alone is a list of one."""
        found = listed(self.values.get(name))
        if not all(isinstance(value, str) and value.strip() for value in found):
            self.complain(self.at(name), "must be a list of texts.", id="wrong-type", code="structure")
            return ()
        return tuple(value.strip() for value in found)

    def whole(self, name: str, *, least: int) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            self.complain(self.at(name), f"must be a whole number from {least} on.")
            return None
        return value

    def seconds(self, name: str) -> timedelta | None:
        """A number of seconds; 0 is the same as none."""
        value = self.whole(name, least=0)
        return timedelta(seconds=value) if value else None

    def instant(self, name: str) -> datetime | None:
        text = self.text(name)
        if not text:
            return None
        at = instant_of(text)
        if at is None:
            self.complain(self.at(name), "must be an instant with its offset, as 2026-11-21T12:00:00Z.")
        return at

    def element(self, name: str) -> Element | None:
        value = self.values.get(name)
        return None if value is None else Element(value, self.at(name), self.complain)

    def elements(self, name: str) -> Iterator[Element]:
        for place, value in enumerate(listed(self.values.get(name))):
            yield Element(value, f"{self.at(name)}[{place}]", self.complain)

    def extensions(self, url: str, *, of: str = "") -> Iterator[Element]:
        """The extensions with this URL, of the element or of its primitive `of`."""
        holder = self.values.get("_" + of) if of else self.values
        where = self.at(of) if of else self.where
        if not isinstance(holder, dict):
            return
        for place, value in enumerate(listed(holder.get("extension"))):
            if isinstance(value, dict) and value.get("url") == url:
                yield Element(value, f"{where}.extension[{place}]", self.complain)


def listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def instant_of(text: str) -> datetime | None:
    """A FHIR instant; None for what is none. Digits below a microsecond are dropped."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def without(values: Values, known: Iterable[str]) -> Values:
    """The elements that are not among the known ones, with what stands beside their primitives."""
    names = frozenset(known)
    return {name: value for name, value in values.items() if name.removeprefix("_") not in names}

"""Tells in plain English what happens, at 100 columns; colours only where a terminal reads them."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable

WIDTH = 100
COLUMN = re.compile(
    r"  \d{4}-\d\d-\d\d \S+  |  [a-z][A-Za-z ]{10}\s(?=\S)|  \d  |     (?=\S)"
)  # a time, a fact, a delivery
COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Show:
    """What is told, and whether all of it happened as it should."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.held = 0
        self.failed: list[str] = []

    def title(self, text: str, below: str) -> None:
        self._line(text, "bold")
        self._line("━" * WIDTH, "dim")
        self.say(below)

    def scene(self, number: int, title: str, text: str) -> None:
        self._line()
        self._line(f"── {number}. {title} ".ljust(WIDTH, "─"), "cyan")
        self._line()
        self.say(text)
        self._line()

    def say(self, text: str) -> None:
        for line in textwrap.wrap(" ".join(text.split()), WIDTH - 2) or [""]:
            self._line(f"  {line}".rstrip())

    def step(self, arrow: str, text: str, below: object = "") -> None:
        """What somebody does: → into the broker, ← out of it, • beside it; `below` is what is carried."""
        self._marked(self._in(arrow, "yellow"), text)
        if below:
            for line in textwrap.wrap(str(below), WIDTH - 4, break_on_hyphens=False):
                self._line(f"    {line}")

    def check(self, text: str, held: bool) -> None:
        """A fact that must hold; one that does not makes the whole demonstration fail."""
        self._marked(self._in("✓", "green") if held else self._in("✗", "red"), text)
        self.held += held
        if not held:
            self.failed.append(text)

    def command(self, command: str, output: Iterable[str]) -> None:
        """A command of the product and what it printed, long lines folded under their last column."""
        self._line()
        self._line(f"  $ {command}", "bold")
        for line in output:
            for part in _folded(line):
                self._line(f"  {self._in('│', 'dim')} {part}".rstrip())

    def end(self, text: str) -> None:
        self._line()
        self._line("━" * WIDTH, "dim")
        if not self.failed:
            self._line(f"  All {self.held} facts held: {text}", "green")
            return
        self._line(f"  {len(self.failed)} of {self.held + len(self.failed)} facts did not hold:", "red")
        for failed in self.failed:
            self._line(f"  ✗ {failed}", "red")

    def _marked(self, mark: str, text: str) -> None:
        for line in textwrap.wrap(" ".join(text.split()), WIDTH - 4, break_on_hyphens=False, break_long_words=False):
            self._line(f"  {mark} {line}")
            mark = " "

    def _line(self, text: str = "", colour: str = "") -> None:
        print(self._in(text, colour) if colour else text, flush=True)

    def _in(self, text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._colours else text


def _folded(line: str) -> list[str]:
    """A line of a trace at our width; what follows its first stands under where its text begins."""
    column = COLUMN.match(line)
    longest = max(map(len, line.split()), default=0)
    indent = " " * min(column.end() if column else 5, max(WIDTH - 4 - longest, 5))
    return textwrap.wrap(line, WIDTH - 4, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) or [
        ""
    ]

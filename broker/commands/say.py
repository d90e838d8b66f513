"""What a command prints: plain lines, tables in columns, JSON; colours only where a terminal reads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a sender wrote must not steer the terminal


class Say:
    """Where a command writes, and how."""

    def __init__(self, *, as_json: bool = False, no_colour: bool = False, out: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._colour = not no_colour and not os.environ.get("NO_COLOR") and self._out.isatty()

    def raw(self, text: str) -> None:
        """One line as it is: JSON escapes what must not be printed."""
        self._out.write(f"{text}\n")
        self._out.flush()

    def json(self, value: Any) -> None:
        import orjson

        self.raw(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())

    def line(self, text: str = "", style: str = "") -> None:
        """One line; `style` is rich's, and is seen on a terminal only."""
        text = clean(text)
        if not (style and self._colour):
            self._out.write(f"{text}\n")
            self._out.flush()
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(file=self._out, highlight=False, soft_wrap=True)
        console.print(Text(text, style=style))

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[Any]], *, nothing: str) -> None:
        """Columns as wide as they must be; a line that says so where there is no row."""
        written = [[clean("-" if cell is None else str(cell)).replace("\n", " ") for cell in row] for row in rows]
        if not written:
            self.line(nothing)
            return
        widths = [max(map(len, column)) for column in zip(titles, *written, strict=True)]
        self.line(_columns(titles, widths), "bold")
        for row in written:
            self.line(_columns(row, widths))


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def clean(text: str) -> str:
    return _CONTROLS.sub("\ufffd", text)


def at(text: str | None) -> str:
    """An instant out of JSON, as people read it: UTC, to the millisecond."""
    if text is None:
        return "-"
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return text
    return instant.strftime("%Y-%m-%d %H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"

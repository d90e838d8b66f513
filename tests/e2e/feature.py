"""Reads a Gherkin feature as far as those of CloudEvents' conformance go: outlines, texts, tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STEP = re.compile(r"(?:Given|When|Then|And) (.*)")


@dataclass(frozen=True, slots=True)
class Step:
    words: str
    text: str = ""
    table: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    steps: tuple[Step, ...]


def scenarios(file: Path) -> list[Scenario]:
    """Of an outline one for each line of its examples."""
    parts = re.split(r"^ *Scenario(?: Outline)?: *(.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = []
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        outline, _, examples = body.partition("Examples:")
        names, *rows = [_cells(line) for line in examples.splitlines() if line.strip()] or [()]
        for values in rows or [()]:
            filled_name, filled = name, outline
            for key, value in zip(names, values, strict=True):
                filled_name, filled = filled_name.replace(f"<{key}>", value), filled.replace(f"<{key}>", value)
            found.append(Scenario(filled_name, tuple(_steps(filled))))
    return found


def _steps(text: str) -> Iterator[Step]:
    starts = [*STEP.finditer(text)]
    for step, following in zip(starts, [*starts[1:], None], strict=True):
        rest = text[step.end() : following.start() if following else None]
        quoted = re.search(r'^ *"""\n(.*?)\n *"""', rest, re.DOTALL | re.MULTILINE)
        rows = [_cells(line) for line in rest.splitlines() if line.strip().startswith("|")]
        yield Step(step[1].strip(), textwrap.dedent(quoted[1]) if quoted else "", tuple(rows[1:]))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))

"""What is wrong in a source of the directory."""

from __future__ import annotations

import msgspec


class DirectoryProblem(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    line: int | None = None
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"

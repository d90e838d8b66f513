"""`${NAME}`, `${NAME:default}` and `${file:PATH}` inside values; `$${` stands for `${` itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from broker.config.mistake import Wrong

_PLACE = re.compile(r"\$\$\{|\$\{(?P<what>[^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>.*))?", re.DOTALL)


class Substitution(msgspec.Struct, frozen=True, kw_only=True):
    """Where variables and files come from."""

    env: Mapping[str, str]
    folder: Path  # relative paths start here

    def into(self, text: str) -> tuple[str, list[Wrong]]:
        """The text with everything substituted, and what could not be."""
        if "${" not in text:
            return text, []
        wrong: list[Wrong] = []

        def one(found: re.Match[str]) -> str:
            try:
                return self._meant(found)
            except Wrong as problem:
                wrong.append(problem)
                return ""

        return _PLACE.sub(one, text), wrong

    def _meant(self, found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        what = found["what"]
        if what is None:
            raise Wrong("`${` is not closed by `}`", "write $${ where ${ itself is meant")
        if what.startswith("file:"):
            return self._content(what.removeprefix("file:"))
        variable = _VARIABLE.fullmatch(what)
        if variable is None:
            raise Wrong(f"`{found[0]}` names no variable", "${NAME}, ${NAME:default} or ${file:PATH}")
        name, default = variable["name"], variable["default"]
        value = self.env.get(name, default)
        if value is None:
            raise Wrong(f"the environment has no variable {name}", f"set it, or write ${{{name}:default}}")
        return value

    def _content(self, name: str) -> str:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            raise Wrong(f"there is no file {path}") from None
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise Wrong(f"the file {path} cannot be read: {reason}") from None

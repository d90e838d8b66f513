"""Puts together what docs/plugins.md shows in pieces: the files of a plugin, a configuration, and the commands."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
_BLOCK = re.compile(
    r"^\*\*`(?P<name>[^`]+)`\*\*$|^```(?P<kind>python|yaml|sh)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def files(page: Path = PAGE) -> dict[str, str]:
    """What each file holds: the blocks that follow its name, until the next name."""
    found: dict[str, str] = {}
    name = ""
    for part in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if part["name"]:
            name = part["name"]
            assert name not in found, f"{name} is begun twice"
            found[name] = ""
        else:
            gap = "\n\n" if re.match(r"(class|def|async def|@|[A-Z_]+ =)", part["text"]) else "\n"
            found[name] += (gap if found[name] else "") + part["text"]
    return found


def write_files(folder: Path) -> Path:
    """Writes them into a folder, and returns the folder of plugins in it."""
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "plugins"

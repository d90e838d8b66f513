"""Writes the settings page from what the settings say of themselves.

`python -m broker.config.document > docs/settings.md`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from broker.channel import ChannelSpec
from broker.config import quantities
from broker.config.whole import schema

Schema = Mapping[str, Any]

_OPENING = """\
# Settings

<!-- Written by `python -m broker.config.document`; change the descriptions in broker/config, not this page. -->

One YAML file (YAML 1.2: `no` is a word) says what a broker does. `fhir-broker check` names the place of every mistake
in it, `fhir-broker schema` prints its JSON Schema for an editor, `fhir-broker init` writes one to begin with, and
`config/examples/` has more. Unknown keys, and keys written twice, are mistakes.

- `${NAME}` in a value is an environment variable, `${NAME:default}` has a default, `${file:PATH}` is what a file holds;
  `$${` is `${` itself. Messages show what is written, never what was put in its place.
- A relative path starts at the folder of the file that names it.
- A *duration* is `250ms`, `10s`, `15m`, `24h`, `90d`; a *size* is `500kB`, `64KiB`, `32MiB`, `1GiB`.
- Where *texts* are asked for, one text will do.
- A *name pattern* ends in `*` after a whole arc or segment: `urn:oid:2.999.1.*`, not `urn:oid:2.999.1*`.
- An *address pattern* is a URL whose host may begin with `*.` and whose path may end in `/*`.
"""


def page(channels: Mapping[str, ChannelSpec] | None = None) -> str:
    """The whole page, in Markdown."""
    whole = schema(channels)
    return _OPENING + "".join(_section(whole, whole, ()))


def _section(whole: Schema, here: Schema, path: tuple[str, ...]) -> Iterator[str]:
    """A table of the plain settings, then a section for each mapping below."""
    plain, below = [], []
    for key, setting in here.get("properties", {}).items():
        inner, step = _mapping_in(whole, setting)
        if inner is None:
            plain.append(_row(key, setting, required=key in here.get("required", ()), whole=whole))
        elif inner is here or inner == here:
            plain.append(f"| `{key}` | mapping, as this one |  | {_in_cell(setting)} |\n")
        else:
            below.append((inner, setting, (*path, f"{key}{step}")))
    if plain:
        yield "\n| key | kind | default | meaning |\n|---|---|---|---|\n"
        yield from plain
    for inner, setting, inner_path in below:
        yield f"\n{'#' * min(len(inner_path) + 1, 4)} `{'.'.join(inner_path)}`\n\n{setting.get('description', '')}\n"
        if path == () and inner_path == ("routes[]",):
            yield _OF_RULES
            inner = _without(inner, whole["$defs"]["PolicyForm"])
        yield from _section(whole, inner, inner_path)


_OF_RULES = """
Beside the keys below, a rule has all those of `defaults`; what it leaves unsaid comes from there, setting by setting,
and from no other rule. `address`, `refuse` and `log` exclude each other; without any, the directory decides.
"""


def _without(schema: Schema, other: Schema) -> Schema:
    return {
        "properties": {key: value for key, value in schema["properties"].items() if key not in other["properties"]},
        "required": schema.get("required", ()),
    }


def _mapping_in(whole: Schema, setting: Schema) -> tuple[Schema | None, str]:
    """The schema of the mapping that a setting is, or is a list or a dictionary of."""
    found = _resolved(whole, setting)
    if found.get("properties"):
        return found, ""
    items = found.get("items")
    for item in items.get("anyOf", (items,)) if isinstance(items, dict) else ():  # a text may stand for the mapping
        if _resolved(whole, item).get("properties"):
            return _resolved(whole, item), "[]"
    extra = found.get("additionalProperties")
    if isinstance(extra, dict) and _resolved(whole, extra).get("properties"):
        return _resolved(whole, extra), ".NAME"
    return None, ""


def _resolved(whole: Schema, setting: Schema) -> Schema:
    if "$ref" in setting:
        return _resolved(whole, whole["$defs"][setting["$ref"].rpartition("/")[2]])
    branches = [branch for branch in setting.get("anyOf", ()) if branch != {"type": "null"}]
    return _resolved(whole, branches[0]) if len(branches) == 1 else setting


def _row(key: str, setting: Schema, *, required: bool, whole: Schema) -> str:
    default = "required" if required else _default(setting.get("default"))
    return f"| `{key}` | {_kind(whole, setting)} | {default} | {_in_cell(setting)} |\n"


def _in_cell(setting: Schema) -> str:
    return str(setting.get("description", "")).replace("|", "\\|")


def _default(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`".replace("|", "\\|")


def _kind(whole: Schema, setting: Schema) -> str:
    found = _resolved(whole, setting)
    if found.get("not") == {}:
        return "not in this release"
    if "enum" in found:
        return ", ".join(f"`{word}`" for word in found["enum"])
    if found.get("pattern") == quantities.DURATION:
        return "duration"
    if found.get("pattern") == quantities.SIZE:
        return "size"
    if "anyOf" in found:
        return "text, or texts"
    if found.get("type") == "array":
        return f"list of {_kind(whole, found['items'])}"
    if found.get("type") == "object":
        extra = found.get("additionalProperties")
        return f"mapping to {_kind(whole, extra)}" if isinstance(extra, dict) else "mapping"
    if found.get("format") == "path":
        return "path"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    return names.get(str(found.get("type")), "text")


if __name__ == "__main__":
    sys.stdout.write(page())

"""What pydantic found wrong, in our words, at the place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from broker.config.mistake import Mistake, Wrong, did_you_mean
from broker.config.places import Place, Steps
from broker.config.whole import CHANNELS_TO_COME

_QUOTED = re.compile(r"'([^']*)'")
_SECRETS = re.compile(r"pass|secret|token|credential", re.IGNORECASE)


class Complaints:
    """Turns errors into mistakes, for one file and its form."""

    def __init__(self, file: str, root: Place, schema: Mapping[str, Any], channels: Iterable[str]) -> None:
        self._file = file
        self._root = root
        self._schema = schema
        self._channels = tuple(channels)

    def of(self, error: ValidationError) -> list[tuple[Steps, Mistake]]:
        """Each mistake with the path of what has to go for the rest to be usable."""
        return [self._one(dict(one)) for one in error.errors(include_url=False) if not self._is_echo(dict(one))]

    def _is_echo(self, error: Mapping[str, Any]) -> bool:
        """A list of nothing but wrong items is no list that was left empty."""
        return error["type"] == "too_short" and bool(self._root.at(error["loc"]).holds)

    def _one(self, error: dict[str, Any]) -> tuple[Steps, Mistake]:
        kind, location = error["type"], error["loc"]
        path = self._root.follow(location)
        place = self._root.at(path)
        if kind == "missing":
            return path, self._mistake(place.named, f"`{location[-1]}` is missing{_in(path)}")
        if kind == "extra_forbidden":
            return path, self._unknown(path, place)
        text, hint = _said(error, place)
        # What was substituted, or is called a secret, is not shown, and neither is a hint that is made of it.
        secret = bool(_SECRETS.search(_key(path)))
        hint = "" if secret or place.is_substituted else hint
        shown = "" if secret else _instead(text, place)
        return path, self._mistake(place.start, f"{_name(path)} {text}{shown}", hint)

    def _unknown(self, path: Steps, place: Place) -> Mistake:
        key = str(path[-1])
        if path[:-1] == ("channels",):
            if key in CHANNELS_TO_COME:
                return self._mistake(place.named, f"the channel {key} is not in this release")
            hint = did_you_mean(key, self._channels) or f"there are {', '.join(sorted(self._channels))}"
            return self._mistake(place.named, f"there is no channel {key}", hint)
        known = sorted(_keys(self._schema, path[:-1]))
        hint = did_you_mean(key, known) or f"known here: {', '.join(known)}"
        return self._mistake(place.named, f"unknown key `{key}`{_in(path[:-1])}", hint)

    def _mistake(self, at: tuple[int, int], text: str, hint: str = "") -> Mistake:
        return Mistake(file=self._file, line=at[0], column=at[1], text=text, hint=hint)


def _key(path: Steps) -> str:
    """The key of a value; of a list's item, the list's."""
    keys = [step for step in path if isinstance(step, str)]
    return keys[-1] if keys else ""


def _name(path: Steps) -> str:
    if not path:
        return "the file"
    return f"each of `{_key(path)}`" if isinstance(path[-1], int) else f"`{_key(path)}`"


def _instead(text: str, place: Place) -> str:
    """What stands there instead of what must be."""
    if place.kind != "text":
        return f", not {place.kind}" if text.startswith("must be ") else ""
    if not place.shown:
        return ""
    return f", not `{place.shown}`" if text.startswith("must be ") else f": `{place.shown}`"


def _in(path: Steps) -> str:
    return f" in `{_key(path)}`" if path else ""


def _said(error: Mapping[str, Any], place: Place) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        wrong = context["error"]
        return (str(wrong), wrong.hint) if isinstance(wrong, Wrong) else (f"is wrong: {wrong}", "")
    if kind in ("enum", "literal_error"):
        known = _QUOTED.findall(context["expected"])
        return f"must be {_either(known)}", did_you_mean(place.written, known)
    for kinds, text in _TEXTS.items():
        if kind in kinds:
            return text.format_map(context), ""
    return f"is wrong: {error['msg'][0].lower()}{error['msg'][1:]}", ""


_TEXTS: dict[tuple[str, ...], str] = {
    ("model_type", "model_attributes_type", "dict_type", "mapping_type"): "must be a mapping",
    ("tuple_type", "list_type"): "must be a list",
    ("string_type",): "must be text",
    ("path_type",): "must be a path",
    ("int_parsing", "int_type", "int_from_float", "int_parsing_size"): "must be a whole number",
    ("float_parsing", "float_type", "finite_number"): "must be a number",
    ("greater_than_equal",): "must be at least {ge:g}",
    ("greater_than",): "must be more than {gt:g}",
    ("less_than_equal",): "must be at most {le:g}",
    ("less_than",): "must be less than {lt:g}",
    ("too_short", "string_too_short"): "must not be empty",
    ("string_pattern_mismatch",): "must look like {pattern}",
}


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def _keys(schema: Mapping[str, Any], path: Steps) -> set[str]:
    """The keys that the schema knows at a path."""
    here = [dict(schema)]
    for step in path:
        here = [below for one in here for below in _below(schema, one, step)]
    return {key for one in here for form in _forms(schema, one) for key in form.get("properties", {})}


def _below(schema: Mapping[str, Any], here: Mapping[str, Any], step: str | int) -> Iterable[dict[str, Any]]:
    for form in _forms(schema, here):
        if isinstance(step, int):
            found = form.get("items")
        else:
            found = form.get("properties", {}).get(step) or form.get("additionalProperties")
        if isinstance(found, dict):
            yield found


def _forms(schema: Mapping[str, Any], here: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a schema may stand for: behind references, and each branch of a union."""
    if "$ref" in here:
        return _forms(schema, schema["$defs"][here["$ref"].rpartition("/")[2]])
    if "anyOf" in here:
        return [form for branch in here["anyOf"] for form in _forms(schema, branch)]
    return [here]

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from config_desk import CHANNELS
from ruamel.yaml import YAML

from broker.config import document, schema
from broker.config.installed import Installed
from broker.core.policy import DEFAULT, Match, Policy

ROOT = Path(__file__).parents[2]


def resolved(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return whole["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def settings_in(whole: dict[str, Any], here: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, setting in here.get("properties", {}).items():
        yield f"{path}{key}", setting
        inner = resolved(whole, setting)
        if inner is not here:
            yield from settings_in(whole, inner, f"{path}{key}.")


def test_every_section_of_the_contract_is_in_the_schema() -> None:
    whole = schema(CHANNELS)
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(whole["properties"]) == {
        "broker", "store", "admin", "plugins", "channels", "parties", "allow", "directory", "routes", "defaults",
        "subscriptions", "log",
    }  # fmt: skip
    assert whole["required"] == ["broker"]
    assert whole["additionalProperties"] is False


def test_unknown_keys_are_forbidden_everywhere() -> None:
    whole = schema(CHANNELS)
    mappings = [one for one in whole["$defs"].values() if one.get("type") == "object"]
    assert mappings
    assert all(one["additionalProperties"] is False for one in mappings)


def test_every_setting_of_ours_says_what_it_means() -> None:
    whole = schema({})
    silent = [path for path, setting in settings_in(whole, whole) if not setting.get("description")]
    assert silent == []


def test_defaults_are_written_as_in_a_file() -> None:
    whole = schema(CHANNELS)
    said = dict(settings_in(whole, whole))
    assert said["broker.limits.message"]["default"] == "32MiB"
    assert said["store.retention.trace"]["default"] == "400d"
    assert said["defaults.sync.wait"]["default"] == "10s"
    assert said["defaults.retry.give_up"]["default"] == "24h"
    assert said["defaults.order"]["default"] == "none"
    assert said["channels.http.bodies.memory"]["default"] == "256KiB"
    assert said["channels.http.bodies.wait"]["default"] == "30s"


def test_every_policy_and_every_key_of_match_can_be_set() -> None:
    whole = schema({})
    policies = set(whole["$defs"]["PolicyForm"]["properties"])
    assert policies == {*Policy.__struct_fields__} - {"unread"} | {"mailbox"}
    for name in ("sync", "retry", "lane"):
        value: msgspec.Struct = getattr(DEFAULT, name)
        form = resolved(whole, whole["$defs"]["PolicyForm"]["properties"][name])
        assert set(form["properties"]) == {*value.__struct_fields__}
    keys = set(whole["$defs"]["MatchForm"]["properties"])
    assert keys == {*Match.__struct_fields__} - {"negated"} | {"not"}


def test_every_key_of_the_examples_is_in_the_schema() -> None:
    whole = schema({**Installed(), **CHANNELS})

    def check(value: Any, here: dict[str, Any], path: str) -> None:
        here = resolved(whole, here)
        for branch in here.get("anyOf", ()):
            if "$ref" in branch:
                here = resolved(whole, branch)
        if isinstance(value, dict):
            for key, inner in value.items():
                known = here.get("properties", {})
                assert key in known or here.get("additionalProperties"), f"{path}.{key}"
                check(inner, known.get(key) or here["additionalProperties"], f"{path}.{key}")
        elif isinstance(value, list) and "items" in here:
            for item in value:
                check(item, here["items"], path)

    for file in [ROOT / "config/broker.yaml", *sorted((ROOT / "config/examples").glob("*.yaml"))]:
        content = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
        content["directory"].pop("endpoints")
        check(content, whole, file.name)


def test_the_settings_page_is_current() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == document.page(), "python -m broker.config.document > docs/settings.md"


def test_the_settings_page_names_every_setting() -> None:
    page = document.page(CHANNELS)
    whole = schema(CHANNELS)
    for path, _ in settings_in(whole, whole):
        key = path.rpartition(".")[2]
        assert any(form in page for form in (f"`{key}`", f".{key}`", f"`{key}.NAME`", f"`{key}[]`")), path
    assert "### `channels.http`" in page
    assert "| `password` | text |  | Of the account. |" in page

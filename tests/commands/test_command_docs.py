"""The pages name every command, every path and every metric, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from broker.__main__ import cli
from broker.api.metrics import Metrics
from broker.api.openapi import document

DOCS = Path(__file__).parents[2] / "docs"


def commands() -> set[str]:
    group = typer.main.get_command(cli)
    names = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        names |= {f"{name} {one}" for one in inner} if inner else {name}
    return names


def test_every_command_is_on_its_page_and_no_other() -> None:
    page = (DOCS / "commands.md").read_text()
    groups = "mailbox |dead |streams |lanes |subscriptions |directory "
    written = set(re.findall(rf"^\| `fhir-broker ((?:{groups})?[a-z-]+)", page, re.M))
    assert written == commands()


def test_every_option_on_the_page_is_there() -> None:
    page = (DOCS / "commands.md").read_text()
    known = set()
    group = typer.main.get_command(cli)
    for command in group.commands.values():  # type: ignore[attr-defined]
        for one in getattr(command, "commands", {"": command}).values():
            known |= {option for parameter in one.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", page)) - {"--help"} <= known


def test_every_path_is_on_its_page_and_no_other() -> None:
    page = (DOCS / "admin-api.md").read_text()
    written = {path.partition("?")[0] for path in re.findall(r"`(?:GET|POST) (/[^`]+)`", page)}
    assert written | {"/healthz", "/readyz"} == document("1")["paths"].keys()


def test_every_metric_is_on_its_page() -> None:
    page = (DOCS / "admin-api.md").read_text()
    for family in Metrics().registry.collect():
        if family.name.startswith("fhir_broker_"):
            name = family.name.removeprefix("fhir_broker_") + ("_total" if family.type == "counter" else "")
            assert f"`{name}" in page, name

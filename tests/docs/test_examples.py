"""The examples run, the demonstration ends well, and the pages name what there is: states, metrics, commands."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main

from broker.__main__ import cli
from broker.commands.check import check
from broker.commands.init import starter
from broker.core.delivery import NEXT, Event

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
EXAMPLES = sorted((TOP / "config" / "examples").glob("*.yaml"))
ENV = {**os.environ, "PYTHONPATH": str(TOP)}
READY_WITHIN = 30  # seconds; a socket's own limit, nothing here waits for it


def pages() -> str:
    return "".join(path.read_text() for path in sorted(DOCS.rglob("*.md")))


@contextmanager
def daemon(file: Path) -> Iterator[dict[str, str]]:
    """`fhir-broker run`, from its word that it listens, and on what, to a clean stop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "run", "--config", file], env=ENV, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "event=listening" in line:
                break
        else:
            pytest.fail(f"{file.name} did not start: {''.join(said)}")
        yield dict(re.findall(r"(http|admin)=(\S+)", said[-1]))
        process.send_signal(signal.SIGTERM)
        process.stdout.read()  # what it says while it stops
        assert process.wait(READY_WITHIN) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def ask(address: str, path: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}{path}", timeout=READY_WITHIN) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def on_free_ports(text: str) -> str:
    moved, listeners = re.subn(r"(listen: )(127\.0\.0\.1|\[::1\]):\d+", r'\1"\2:0"', text)
    assert listeners
    moved = re.sub(r"(log: \{.*)format: \w+", r"\1format: logfmt", moved)
    return moved if re.search(r"^admin:", moved, re.MULTILINE) else moved + '\nadmin: {listen: "127.0.0.1:0"}\n'


# -- the examples


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("example", [*EXAMPLES, TOP / "config" / "broker.yaml"], ids=lambda path: path.name)
def test_an_example_passes_check_without_a_warning(example: Path) -> None:
    out = io.StringIO()
    assert check(example, out=out, env={}) == 0, out.getvalue()
    assert out.getvalue().startswith("ok: "), out.getvalue()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_a_daemon_starts_with_an_example_and_is_ready(example: Path, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "examples"  # the stores of the examples stand two folders up
    shutil.copytree(example.parent, folder)
    (folder / example.name).write_text(on_free_ports(example.read_text()))
    with daemon(folder / example.name) as listening:
        for listener in ("http", "admin"):
            status, body = ask(listening[listener], "/health/ready")
            assert status == 200, body


def test_the_configuration_in_the_repository_is_the_one_that_init_writes() -> None:
    assert (TOP / "config" / "broker.yaml").read_text() == starter("../data")


# -- the demonstration


@pytest.mark.slow
def test_the_demonstration_ends_well_within_its_columns() -> None:
    done = subprocess.run(
        [sys.executable, TOP / "demo" / "run.py"], env=ENV, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "\x1b" not in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 100] == []
    assert done.stderr == ""
    assert done.stdout.count("$ fhir-broker trace ") == 6


# -- the pages


def test_the_life_table_of_the_page_is_the_one_of_the_program() -> None:
    page = (DOCS / "architecture.md").read_text()
    head, _, *rows = re.findall(r"^\|(.*)\|$", page.split("## The life of a delivery")[1].split("## ")[0], re.MULTILINE)
    events = [cell.strip() for cell in head.split("|")][1:]
    assert sorted(events) == sorted(event.value for event in Event)
    told = {}
    for row in rows:
        state, *cells = (cell.strip() for cell in row.split("|"))
        told[state.strip("*")] = {event: cell for event, cell in zip(events, cells, strict=True) if cell}
    assert told == {
        state.name.lower(): {event.value: after.name.lower() for event, after in ways.items()}
        for state, ways in NEXT.items()
    }


def test_every_file_that_the_architecture_page_names_is_there() -> None:
    named = re.findall(r"`((?:broker|plugins)/[\w/.]*)`", (DOCS / "architecture.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not (TOP / name).exists()] == []
    rooms = {path.name for path in (TOP / "broker").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= {name.split("/")[1] for name in named if name.startswith("broker/")}


def test_every_metric_is_named_in_the_pages(tmp_path: Path) -> None:
    file = tmp_path / "broker.yaml"
    file.write_text(on_free_ports(starter()))
    with daemon(file) as listening:
        _, scraped = ask(listening["admin"], "/metrics")
    names = set(re.findall(r"^# TYPE fhir_broker_(\w+)", scraped, re.MULTILINE))
    assert {"messages_received_total", "queue_depth", "build_info"} <= names
    known = set(re.findall(r"\w+", pages()))
    assert {name for name in names if name not in known and f"fhir_broker_{name}" not in known} == set()


def commands(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)  # a group's
    if below is None:
        yield " ".join(names), command
    for name, one in (below or {}).items():
        yield from commands(one, *names, name)


COMMANDS = dict(commands(typer.main.get_command(cli)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_documented(name: str) -> None:
    page = (DOCS / "commands.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith(f"| `fhir-broker {name}")]
    assert len(rows) == 1, f"docs/commands.md has {len(rows)} rows for {name}"
    common = {"--help", "-h", "--config", "-c", "--admin", "--json", "--no-color"}
    for parameter in COMMANDS[name].params:
        for option in parameter.opts:
            if option.startswith("--") and option not in common:
                assert option in rows[0], f"{name} {option}"


def test_the_pages_name_no_command_that_is_not_there() -> None:
    said = set(re.findall(r"`fhir-broker ([a-z][a-z-]*(?: (?:ls|read|show|redrive|drop|lookup|refresh))?)", pages()))
    assert said
    assert {
        one for one in said if one not in COMMANDS and not any(name.startswith(f"{one} ") for name in COMMANDS)
    } == set()

"""docs/plugins.md writes a channel: put together it is sound code, passes check and runs in a real daemon."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from desks import DESKS
from e2e_daemon import free_port
from e2e_messages import NORTH, SOUTH, message, problem_ids
from plugin_page import PAGE, files, write_files

from broker.commands.check import check

TOP = Path(__file__).parents[2]
WITHIN = 20.0  # seconds; a real daemon on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path)
    for name in ("in", "out/south"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def said_by_check(folder: Path) -> str:
    out = io.StringIO()
    check(folder / "broker.yaml", env={}, out=out)
    return out.getvalue().replace(f"{folder}/", "")


def test_page_has_every_file_that_it_names() -> None:
    assert set(files()) == {"broker.yaml", "try.sh"} | {
        f"plugins/file/{name}.py"
        for name in ("__init__", "settings", "address", "beside", "receiver", "sender", "writing")
    }


def test_configuration_of_the_page_passes_check(folder: Path) -> None:
    assert said_by_check(folder) == "ok: 0 parties, 0 routes, 2 channels, 2 endpoints, 0 sources\n"


def test_mistakes_are_told_as_the_page_says(folder: Path) -> None:
    shown = re.findall(r"^broker\.yaml:.*$", PAGE.read_text(), re.MULTILINE)
    assert len(shown) == 2
    config = folder / "broker.yaml"
    config.write_text(config.read_text().replace("{inbox: in", "{inbx: in"))
    assert shown[1] in said_by_check(folder)
    # another folder, since Python imports a plugin once in a process
    (folder / "plugins").rename(folder / "slip")
    config.write_text(config.read_text().replace("[plugins]", "[slip]").replace("{inbx: in", "{inbox: in"))
    receiver = folder / "slip" / "file" / "receiver.py"
    receiver.write_text(receiver.read_text().replace("import structlog", "import structlg"))
    assert shown[0] in said_by_check(folder)


def test_address_that_names_no_folder_is_a_mistake_with_its_place(folder: Path) -> None:
    config = folder / "broker.yaml"
    config.write_text(config.read_text().replace('"file:south"', '"file:../etc"'))
    assert (
        "`file:../etc` cannot be used (an address of this channel is file:NAME, a folder in the outbox)"
        in said_by_check(folder)
    )


@pytest.mark.parametrize("settings", ["{}", "{inbox: in, every: 1ms}"])
def test_settings_that_make_no_sense_are_told_by_the_channel(folder: Path, settings: str) -> None:
    config = folder / "broker.yaml"
    config.write_text(re.sub(r"file: \{.*\}", f"file: {settings}", config.read_text()))
    assert re.search(r"name an inbox, an outbox, or both|every: at least 10ms", said_by_check(folder))


@pytest.mark.slow
def test_code_of_the_page_is_clean_and_typed(folder: Path) -> None:
    plugins = folder / "plugins"
    (folder / "ruff.toml").write_text(f'extend = "{TOP}/pyproject.toml"\n')
    for command in (
        ["ruff", "format", "--check", "--diff", "."],
        ["ruff", "check", "--no-cache", "--ignore", "I001", "."],  # which depends on where the broker stands
        ["mypy", "--strict", "--explicit-package-bases", "--config-file=", "-p", "file"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=plugins, env={**os.environ, "MYPYPATH": str(TOP)},
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_channel_of_the_page_is_among_those_that_the_contract_suite_tries() -> None:
    assert "file" in {desk.name for desk in DESKS}


# -- in a real daemon


@pytest.fixture
def running(folder: Path) -> Iterator[int]:
    """The commands of the page, run as they stand there; gives the port of the http channel."""
    port = free_port()
    config = folder / "broker.yaml"
    config.write_text(config.read_text().replace("8080", str(port)).replace("8079", str(free_port())))
    (folder / "message.json").write_bytes(message("dropped"))
    (folder / "bin").mkdir()
    program = folder / "bin" / "fhir-broker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m broker "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(TOP)}
    commands = (folder / "try.sh").read_text() + "echo $! > pid\nwait $!\n"
    with (folder / "log").open("wb") as log:
        shell = subprocess.Popen(["bash", "-e", "-c", commands], cwd=folder, env=env, stdout=log, stderr=log)
        until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip(), folder)
        try:
            yield port
            os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
            assert shell.wait(WITHIN) == 0, (folder / "log").read_text()
        finally:
            if shell.poll() is None:
                os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
                shell.wait(WITHIN)


def until(enough: object, folder: Path) -> None:
    end = time.monotonic() + WITHIN
    while not enough():  # type: ignore[operator]
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.02)


def post(port: int, body: bytes) -> int:
    url = f"http://127.0.0.1:{port}/fhir/$process-message"
    request = urllib.request.Request(url, body, {"Content-Type": "application/fhir+json"}, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=WITHIN) as answer:
        status: int = answer.status
        return status


def test_messages_pass_through_the_channel_in_both_directions(folder: Path, running: int) -> None:
    done, south = folder / "in" / "done", folder / "out" / "south"
    until(lambda: len(list(south.glob("[!.]*.json"))) == 1 and (done / "message.json").exists(), folder)
    (first,) = south.glob("[!.]*.json")
    assert first.read_bytes() == (done / "message.json").read_bytes() == (folder / "message.json").read_bytes()
    assert problem_ids((done / "message.json.outcome").read_bytes()) == ["accepted"]
    beside = msgspec.json.decode(first.with_name(f"{first.name}.envelope").read_bytes())
    assert (beside["envelope"]["destination"], beside["envelope"]["via"]) == (SOUTH, "urn:oid:2.999.1")

    assert post(running, message("posted")) == 202  # in by HTTP, out as a file
    until(lambda: len(list(south.glob("[!.]*.json"))) == 2, folder)

    (folder / "in" / "mail.json").write_bytes(message("mail", to=NORTH, source=SOUTH))  # in as a file, read over HTTP
    url = f"http://127.0.0.1:{running}/fhir/Bundle?message.destination-uri={NORTH}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until(lambda: b'"mail"' in opener.open(url, timeout=WITHIN).read(), folder)


def test_what_is_refused_is_put_aside_with_its_outcome(folder: Path, running: int) -> None:
    refused = folder / "in" / "refused"
    (folder / "in" / "none.json").write_bytes(b'{"resourceType":"Patient"}')
    (folder / "in" / "lost.json").write_bytes(message("lost", to="urn:oid:2.999.404"))
    (folder / "in" / "link.json").symlink_to(folder / "message.json")  # nobody's files are read by way of a link
    until(lambda: (refused / "none.json").exists() and (refused / "lost.json").exists(), folder)
    assert problem_ids((refused / "lost.json.outcome").read_bytes()) == ["unknown-destination"]
    assert (folder / "in" / "link.json").is_symlink()

"""The tour of README.md, run as it stands there: one shell, one empty folder, each block's output as it is shown."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
PORTS = ("8080", "8079", "9002", "9003", "9004")  # as the tour says them
LIMIT = 90  # seconds for all of it
MARK = "=== end of block "


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of commands, and what it is said to print."""

    line: int
    commands: str
    printed: str | None


def blocks(page: str) -> list[Block]:
    found = re.finditer(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", page, re.MULTILINE | re.DOTALL)
    return [Block(line=page.count("\n", 0, one.start()) + 1, commands=one[1], printed=one[2]) for one in found]


def with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub(r"\b(" + "|".join(ports) + r")\b", lambda found: ports[found[1]], text)


def pattern(printed: str) -> re.Pattern[str]:
    """`…` is anything on its line, and as a whole line any number of lines; gaps may be wider or higher."""
    parts = []
    for line in filter(str.strip, printed.splitlines()):
        words = re.sub(r"\s+", " ", line).strip()
        written = re.escape(words).replace(re.escape("…"), "[^\n]*").replace(r"\ ", " ")
        parts.append(r"(?:[^\n]*\n)*?" if words == "…" else rf"{written}\n")
    return re.compile("".join(parts))


def plain(output: str) -> str:
    lines = (re.sub(r"\s+", " ", line).strip() for line in output.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def free_ports(count: int) -> list[str]:
    """Below those that the system gives to outgoing connections: nobody comes upon them while nothing listens there."""
    found: list[str] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(str(port))
        if len(found) == count:
            break
    return found


def run(script: str, folder: Path) -> str:
    """What one shell prints for it, errors in between; what it left running is ended."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "fhir-broker").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m broker "$@"\n')
    (programs / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    home = folder / "tour"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"HOME": str(home), "PATH": f"{programs}:{env['PATH']}", "PYTHONPATH": str(TOP), "LC_ALL": "C.UTF-8"}
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = shell.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        out, _ = shell.communicate()
        log = (home / "broker.log").read_text()
        pytest.fail(f"the tour did not end within {LIMIT} s:\n{out.decode()}\nbroker.log:\n{log}")
    return out.decode()


@pytest.mark.slow
def test_the_tour_prints_what_it_says(tmp_path: Path) -> None:
    assert shutil.which("curl"), "the tour needs curl"
    tour = blocks(README.read_text())
    assert len(tour) > 10
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    moved = "set -o pipefail\n"
    for number, block in enumerate(tour):
        moved += with_ports(block.commands, ports)
        if "fhir-broker init" in block.commands:
            moved += "".join(f"sed -i 's/{said}/{got}/g' broker.yaml\n" for said, got in ports.items())
        moved += f'code=$?; echo; echo "{MARK}{number} $code"\n'
    output = run(moved, tmp_path)
    ended = re.split(rf"^{MARK}(\d+) (\d+)\n", output, flags=re.MULTILINE)
    assert len(ended) == 3 * len(tour) + 1, f"the shell ended before the tour did:\n{output}"
    wrong = []
    for number, block in enumerate(tour):
        printed, code = plain(ended[3 * number]), ended[3 * number + 2]
        expected = pattern(with_ports(block.printed or "", ports))
        if code != "0" or not expected.fullmatch(printed):
            wrong.append(f"README.md:{block.line} ended with {code} and printed\n{ended[3 * number]}")
    assert not wrong, "\n".join(wrong)


def test_a_wildcard_stands_for_part_of_a_line_or_for_lines() -> None:
    assert pattern("a … c\n…\nend\n").fullmatch(plain("a  b c\n\nmore\nand more\nend\n"))
    assert pattern("a\n…\n").fullmatch(plain("a\n"))
    assert not pattern("a … c\n").fullmatch(plain("a\nc\n"))
    assert not pattern("a\n").fullmatch(plain("a\nb\n"))


def test_commands_shown_besides_the_tour_are_targets_of_the_makefile() -> None:
    shown = "".join(re.findall(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL))
    [phony] = re.findall(r"^\.PHONY: (.*)$", (TOP / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", shown, re.MULTILINE)) == {"demo", "test"} <= set(phony.split())

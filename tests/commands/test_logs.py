"""Log lines: one a line, in order, never a payload, and never the reason that something fails."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from broker import logs


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(out: io.BytesIO) -> list[str]:
    return out.getvalue().decode().removesuffix("\n").split("\n")


def set_up(format: str = "logfmt", level: str = "info", **more: Any) -> tuple[Any, io.BytesIO]:
    out = more.pop("out", None) or io.BytesIO()
    logs.set_up(level, format, out=out, env=more.pop("env", {}))
    return structlog.get_logger("broker.test"), out


def test_logfmt_is_one_line_with_time_level_and_event_first() -> None:
    log, out = set_up()
    log.info("accepted", id="a-b", bytes=12, destinations=["urn:oid:1", "urn:oid:2"], ok=True, nothing=None)
    (line,) = lines(out)
    ts, rest = line.split(" ", 1)
    assert (ts[:5], ts[-1]) == ("ts=20", "Z")
    assert rest == 'level=info event=accepted id=a-b bytes=12 destinations="urn:oid:1 urn:oid:2" ok=true'


def test_json_has_the_same_fields() -> None:
    log, out = set_up("json")
    log.warning("lane closed", lane="http:x", at=Path("/x"))
    told = json.loads(lines(out)[0])
    assert list(told)[:3] == ["ts", "level", "event"]
    assert (told["level"], told["event"], told["at"]) == ("warning", "lane closed", "/x")


def test_auto_is_console_on_a_terminal_and_logfmt_elsewhere() -> None:
    log, out = set_up("auto", out=Terminal())
    log.info("listening", http="127.0.0.1:1")
    assert lines(out)[0].endswith("\x1b[32minfo    \x1b[0m listening  http=127.0.0.1:1")
    log, out = set_up("auto", out=Terminal(), env={"NO_COLOR": "1"})
    log.info("listening")
    assert lines(out)[0].endswith("info     listening")
    log, out = set_up("auto")
    log.info("listening")
    assert "event=listening" in lines(out)[0]


def test_levels_below_are_left_out() -> None:
    log, out = set_up(level="warning")
    log.info("quiet")
    log.warning("loud")
    logging.getLogger("some.library").info("quiet")
    logging.getLogger("some.library").error("loud too")
    assert [line.split("event=")[1] for line in lines(out)] == ["loud", '"loud too" logger=some.library']


def test_libraries_write_through_us() -> None:
    _, out = set_up("json")
    logging.getLogger("aiohttp.server").warning("not HTTP from %s", "127.0.0.1")
    told = json.loads(lines(out)[0])
    assert (told["event"], told["logger"], told["level"]) == ("not HTTP from 127.0.0.1", "aiohttp.server", "warning")


def test_a_librarys_wrong_arguments_do_no_harm() -> None:
    _, out = set_up()
    logging.getLogger("x").warning("%d things", "no number")
    assert 'event="%d things"' in lines(out)[0]


def test_warnings_are_logged() -> None:
    _, out = set_up()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old ways", UserWarning, stacklevel=1)
    assert "old ways" in lines(out)[0]


@pytest.mark.parametrize("format", ["logfmt", "json", "console"])
def test_a_payload_is_never_written(format: str) -> None:
    log, out = set_up(format)
    log.info("x", body="Ola Nordmann", resource={"name": "Ola"}, content="Ola", other=b"Ola")
    logging.getLogger("lib").warning("x", extra={"body": "Ola"})
    assert "Ola" not in out.getvalue().decode()


@pytest.mark.parametrize("format", ["logfmt", "json", "console"])
def test_an_exception_tells_where_and_not_what_it_quotes(format: str) -> None:
    log, out = set_up(format)
    try:
        try:
            int("Ola Nordmann")
        except ValueError as error:
            raise KeyError("Ola Nordmann") from error
    except KeyError:
        log.exception("a channel failed")
        logging.getLogger("lib").exception("and so did this")
    written = out.getvalue().decode()
    assert "Ola" not in written
    assert written.count("KeyError from ValueError") == 2
    assert "test_logs.py" in written
    assert len(lines(out)) == 2


@pytest.mark.parametrize("format", ["logfmt", "json", "console"])
def test_nobody_writes_a_line_of_his_own_into_the_log(format: str) -> None:
    log, out = set_up(format)
    log.info("accepted", source="urn:x\nts=2026 level=error event=forged", id="a\x1b[31m\u2028b")
    assert len(lines(out)) == 1
    assert "\x1b[31m" not in out.getvalue().decode()


def test_under_journald_each_line_has_its_priority(tmp_path: Path) -> None:
    with open(tmp_path / "journal", "w+b") as out:
        stat = os.fstat(out.fileno())
        logs.set_up("debug", "auto", out=out, env={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        log = structlog.get_logger()
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("x")
        out.seek(0)
        assert [line[:3] for line in out.read().decode().splitlines()] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    with open(tmp_path / "file", "w+b") as out:
        logs.set_up("info", "auto", out=out, env={"JOURNAL_STREAM": "1:2"})
        structlog.get_logger().info("x")
        out.seek(0)
        assert out.read().startswith(b"ts=")


def test_a_log_that_cannot_be_written_is_no_reason_to_fail() -> None:
    class Broken(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise BrokenPipeError

    log, _ = set_up(out=Broken())
    log.info("accepted")
    closed = io.BytesIO()
    log, _ = set_up(out=closed)
    closed.close()
    log.info("accepted")


def test_what_is_no_text_is_written_all_the_same() -> None:
    log, out = set_up("json")
    log.info("x", odd="\ud800", large=1 << 70)
    log, more = set_up("logfmt")
    log.info("x", odd="\ud800")
    assert len(lines(out)) == len(lines(more)) == 1

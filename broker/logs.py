"""How log lines are written: one line per event on stdout, as people, logfmt or JSON read them, never a payload."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson
import structlog

Event = MutableMapping[str, Any]
Render = Callable[[Event], str]

# What a message holds is never logged (promise 10). A key of these names is a mistake of the programmer's: its value
# is left out, since a log line must never be the reason that a message is not taken.
PAYLOAD_KEYS = frozenset({"body", "content", "resource", "payload", "bundle", "data"})
LEFT_OUT = "(a payload, not logged)"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}  # syslog(3), as journald reads `<n>`
FIRST = ("ts", "level", "event")
FRAMES = 12  # of a traceback: the innermost


def set_up(
    level: str = "info",
    format: str = "auto",
    *,
    out: BinaryIO | None = None,
    env: Mapping[str, str] = os.environ,
) -> None:
    """Sends every log line of ours, and of the libraries, to `out` (stdout) in one format."""
    out = out or sys.stdout.buffer
    is_terminal = out.isatty()
    kind = ("console" if is_terminal else "logfmt") if format == "auto" else format
    prefix = _is_journal(out, env) and kind != "console"
    lines = Lines(out, prefix=prefix)
    render = _renderer(kind, colours=is_terminal and not env.get("NO_COLOR"))
    structlog.configure(
        processors=[add_level, add_time, plain_exception, no_payloads,
                    lambda _logger, _method, event: ((event["level"], render(event)), {})],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_names: lines,
        cache_logger_on_first_use=True,
    )  # fmt: skip
    root = logging.getLogger()
    root.handlers[:] = [ThroughUs(lines, render)]
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(max(LEVELS[level], logging.WARNING))  # "Using selector", and the like


def _is_journal(out: BinaryIO, env: Mapping[str, str]) -> bool:
    """Whether what is written here goes to journald, which then reads a priority in front of each line."""
    try:
        stat = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return env.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


class Lines:
    """Where lines go, each whole and at once. A log that cannot be written is no reason to fail."""

    def __init__(self, out: BinaryIO, *, prefix: bool = False) -> None:
        self._out = out
        self._prefix = prefix

    def line(self, level: str, text: str) -> None:
        if self._prefix:
            text = f"<{PRIORITIES.get(level, 6)}>{text}"
        try:
            self._out.write(f"{text}\n".encode("utf-8", "backslashreplace"))
            self._out.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = line


class ThroughUs(logging.Handler):
    """The libraries' log records, in our form."""

    def __init__(self, lines: Lines, render: Render) -> None:
        super().__init__()
        self._lines = lines
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # a library's own mistake in its arguments
            text = str(record.msg)
        level = record.levelname.lower()
        event: Event = {"event": text, "logger": record.name, "level": level, "ts": _instant(record.created)}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        event = no_payloads(None, "", plain_exception(None, "", event))
        self._lines.line(level, self._render(event))


# -- what becomes of an event on its way


def add_level(_logger: Any, method: str, event: Event) -> Event:
    event["level"] = "error" if method == "exception" else "warning" if method == "warn" else method
    return event


def add_time(_logger: Any, _method: str, event: Event) -> Event:
    event["ts"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain_exception(_logger: Any, _method: str, event: Event) -> Event:
    """What failed and where, without the exception's own text: that may quote a payload."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    if error is not None:
        event["exception"] = _kinds(error)
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        event["where"] = " > ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    return event


def _kinds(error: BaseException) -> str:
    kinds = [type(error).__name__]
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
        kinds.append(type(error).__name__)
        if len(kinds) == 5:
            break
    return " from ".join(kinds)


def _short(path: str) -> str:
    return "/".join(path.split("/")[-3:])


def no_payloads(_logger: Any, _method: str, event: Event) -> Event:
    for key, value in event.items():
        if key in PAYLOAD_KEYS or isinstance(value, bytes | bytearray | memoryview):
            event[key] = LEFT_OUT
    return event


# -- what a line looks like


def _renderer(kind: str, *, colours: bool) -> Render:
    if kind == "json":
        return as_json
    if kind == "logfmt":
        return as_logfmt
    return lambda event: as_console(event, colours=colours)


def _ordered(event: Event) -> dict[str, Any]:
    first = {key: event[key] for key in FIRST if key in event}
    return {**first, **event}


def as_json(event: Event) -> str:
    try:
        return orjson.dumps(_ordered(event), default=str).decode()
    except orjson.JSONEncodeError:  # lone surrogates, large integers
        return json.dumps(_ordered(event), default=str)


def as_logfmt(event: Event) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in _ordered(event).items() if value is not None)


def _value(value: Any) -> str:
    """A word as it is; anything else in quotes, with what could make two lines of one escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    text = value if isinstance(value, str) else str(value)
    if text and text.isprintable() and not any(mark in text for mark in ' "=\\'):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else json.dumps(text)


COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}


def as_console(event: Event, *, colours: bool) -> str:
    level = str(event.get("level", "info"))
    name = f"{level:<8}"
    head = f"\x1b[{COLOURS.get(level, '0')}m{name}\x1b[0m" if colours else name
    text = str(event.get("event", ""))
    rest = " ".join(f"{key}={_value(value)}" for key, value in event.items() if key not in FIRST and value is not None)
    said = text if text.isprintable() else json.dumps(text)
    return f"{str(event.get('ts', ''))[11:23]} {head} {said}{f'  {rest}' if rest else ''}"

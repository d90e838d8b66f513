"""`fhir-broker check`: is this configuration right, and if not, what is wrong and where."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import orjson

from broker.channel import ChannelSpec
from broker.config import ConfigurationErrors, Mistake, Settings, load

OK = 0
BAD_CONFIGURATION = 2


def check(
    config: str | Path,
    *,
    insecure: bool = False,
    as_json: bool = False,
    channels: Mapping[str, ChannelSpec] | None = None,
    env: Mapping[str, str] | None = None,
    out: TextIO | None = None,
) -> int:
    """Prints what is right or wrong with a configuration; returns the exit code."""
    out = out or sys.stdout
    try:
        settings = load(config, env=env, channels=channels, insecure=insecure)
    except ConfigurationErrors as errors:
        _print(errors.mistakes, counts=None, as_json=as_json, out=out)
        return BAD_CONFIGURATION
    _print(settings.warnings, counts=_counts(settings), as_json=as_json, out=out)
    return OK


def _counts(settings: Settings) -> dict[str, int]:
    counts = {
        "parties": len(settings.parties),
        "routes": len(settings.routes),
        "channels": len(settings.channels),
        "endpoints": len(settings.directory.endpoints),
        "sources": len(settings.directory.sources),
    }
    if settings.subscriptions is not None:
        counts["topics"] = len(settings.subscriptions.topics)
    return counts


def _print(mistakes: Iterable[Mistake], *, counts: dict[str, int] | None, as_json: bool, out: TextIO) -> None:
    if as_json:
        said: dict[str, Any] = {
            "ok": counts is not None,
            "counts": counts or {},
            "mistakes": list(map(_as_json, mistakes)),
        }
        out.write(orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for mistake in mistakes:
        out.write(f"{mistake}\n")
    if counts is not None:
        out.write(f"ok: {', '.join(_counted(number, word) for word, number in counts.items())}\n")


def _as_json(mistake: Mistake) -> dict[str, Any]:
    return {
        "file": mistake.file,
        "line": mistake.line,
        "column": mistake.column,
        "severity": mistake.severity.value,
        "text": mistake.text,
        "hint": mistake.hint or None,
    }


def _counted(number: int, words: str) -> str:
    one = {"parties": "party"}.get(words, words.removesuffix("s"))
    return f"{number} {one if number == 1 else words}"

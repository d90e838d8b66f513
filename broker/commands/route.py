"""`fhir-broker route`: what would become of a message, and why; asked of the running broker, or worked out here."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker.commands import where
from broker.commands.ends import Ended, Exit
from broker.commands.message import read_message
from broker.commands.say import Say
from broker.core.explain import render_explanation


def route(
    file: Path,
    *,
    admin: str | None,
    config: Path | None,
    offline: bool,
    channel: str,
    party: str | None,
    say: Say,
) -> int:
    """The exit code: 3 where the message would be refused."""
    body, content_type = read_message(file)
    if offline:
        explanation = _worked_out(body, content_type, config, channel, party, say)
    else:
        explanation = _asked(body, content_type, where.admin(admin, config), channel, party)
    if say.as_json:
        say.json(explanation)
    else:
        for text in render_explanation(explanation).splitlines():
            style = "green" if text.startswith("  =>") else "dim" if text.startswith("  - ") else ""
            say.line(text, "red" if text.startswith("  => refused") else style)
    return Exit.OK if explanation["verdict"] == "accepted" else Exit.REFUSED


def _asked(body: bytes, content_type: str, admin: str, channel: str, party: str | None) -> Any:
    from broker.commands.ask import asking

    return asking(
        admin,
        lambda daemon: daemon.send("route", body=body, content_type=content_type, channel=channel, party=party),
    )


def _worked_out(
    body: bytes, content_type: str, config: Path | None, channel: str, party: str | None, say: Say
) -> dict[str, Any]:
    """From the configuration and the directory's files alone, without a broker."""
    from broker.api.admin_directory import question_of
    from broker.core.explain import explain
    from broker.core.fhir.media import media_type
    from broker.core.outcome import Refusal
    from broker.core.reading import read_header
    from broker.core.rules import RuleSet
    from broker.directory import Directory

    settings = where.settings(config)
    directory = Directory(
        settings.directory.endpoints,
        settings.directory.sources,
        folder=settings.file.parent,
        file=str(settings.file),
        lines=settings.directory.lines,
    )
    snapshot = directory.load()
    if not say.as_json:
        for problem in directory.problems:
            say.line(f"directory: {problem}", "yellow")
    try:
        header = read_header(body, media_type(content_type))
    except Refusal as refusal:
        raise Ended(Exit.REFUSED, f"{refusal.problem.text} ({refusal.problem.id})") from None
    question = question_of(
        header,
        event_prefix=settings.broker.event_prefix,
        now=datetime.now(UTC),
        channel=channel,
        party=party,
    )
    return explain(question, RuleSet(settings.routes), snapshot, settings.defaults)

"""The command line: `fhir-broker`. Each command imports what it needs when it is called, so that help is quick."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from broker.commands.ends import Ended, Exit
from broker.commands.say import Say

HELP = """\
Takes FHIR messages in, keeps them, carries them on and brings the answers back.

Exit codes: 0 ok, 1 failed, 2 wrong usage or configuration, 3 refused by the broker, 4 the broker cannot be reached.
"""

cli = typer.Typer(
    name="fhir-broker", help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
    cli.add_typer(group, name=name)
    return group


mailbox_cli = _group("mailbox", "What lies in the mailboxes.")
dead_cli = _group("dead", "Dead letters: what was given up, and what to do with it.")
streams_cli = _group("streams", "Where order is asked: what is held, and what waits for what goes before it.")
lanes_cli = _group("lanes", "The peers: what waits for each, and whether it is left alone for now.")
directory_cli = _group("directory", "Who lives where.")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="FHIR_BROKER_CONFIG", metavar="FILE",
        help="The configuration; else ./broker.yaml, else ./config/broker.yaml.",
    ),
]  # fmt: skip
Admin = Annotated[
    str | None,
    typer.Option(
        "--admin", metavar="URL",
        help="The broker's admin interface, HOST:PORT or unix:PATH; else `admin.listen` of the configuration.",
    ),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours; so does NO_COLOR.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let listeners that are not loopback do without TLS and parties.")
]
Plugins = Annotated[
    Sequence[Path],
    typer.Option("--plugins", metavar="FOLDER", help="With the channels in this folder; may be repeated."),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="At most so many.")]
After = Annotated[int, typer.Option("--after", min=0, help="Go on after this position.")]
Number = Annotated[int | None, typer.Option("--number", min=1, help="One delivery of the message.")]
TIME = "2026-11-22T02:00Z, or +2h for two hours from now."
LaneName = Annotated[str, typer.Argument(metavar="NAME", help="The lane, as `lanes ls` shows it.")]
MessageFile = Annotated[Path, typer.Argument(metavar="FILE", help="A message, JSON or XML; - is stdin.")]
MessageId = Annotated[str, typer.Argument(metavar="ID", help="Our id, or any that the sender made.")]


# -- the daemon and its configuration


@cli.command()
def run(config: Config = None, insecure: Insecure = False) -> None:
    """Run the broker until SIGTERM or Ctrl-C."""
    from broker import app, logs
    from broker.commands import where

    settings = where.settings(config, insecure=insecure)
    for warning in settings.warnings:
        typer.echo(str(warning), err=True)
    logs.set_up(settings.log.level.value, settings.log.format.value)
    import uvloop

    try:
        uvloop.run(app.run(settings))
    except (OSError, ValueError) as error:
        raise Ended(Exit.FAILED, f"the broker cannot start: {error}") from None


@cli.command()
def check(config: Config = None, insecure: Insecure = False, json: AsJson = False) -> None:
    """Say what is wrong with a configuration, and where."""
    from broker.commands import check, where

    raise typer.Exit(check.check(where.configuration(config), insecure=insecure, as_json=json))


@cli.command()
def schema(plugins: Plugins = ()) -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from broker.commands import schema

    raise typer.Exit(schema.schema(plugins=plugins))


@cli.command()
def init(folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(".")) -> None:
    """Write a commented configuration to begin with."""
    from broker.commands import init

    raise typer.Exit(init.init(folder))


@cli.command()
def version(json: AsJson = False) -> None:
    """Print the version."""
    import platform

    from broker import __version__

    if json:
        Say(as_json=True).json({"version": __version__, "python": platform.python_version()})
    else:
        typer.echo(f"fhir-broker {__version__} (Python {platform.python_version()})")


# -- messages


@cli.command()
def send(
    file: MessageFile,
    to_url: Annotated[str | None, typer.Option(metavar="URL", help="Post here; else to base_url's way in.")] = None,
    asynchronous: Annotated[bool, typer.Option("--async", help="Do not wait for an answer.")] = False,
    wait: Annotated[str | None, typer.Option(metavar="DURATION", help="Wait so long for it: 5s, 1m.")] = None,
    config: Config = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Post a message to $process-message and show the answer."""
    from broker.commands import send, where

    if asynchronous and wait is not None:
        raise typer.BadParameter("--async does not wait; leave --wait out")
    base_url = "" if to_url else where.settings(config).broker.base_url
    said = Say(as_json=json, no_colour=no_color)
    waits = None if wait is None else _seconds(wait)
    raise typer.Exit(send.send(file, base_url, to_url=to_url, asynchronous=asynchronous, wait=waits, say=said))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})(ms|s|m|h)?", text)
    if found is None:
        raise typer.BadParameter("must be a duration such as 5s, 500ms or 1m", param_hint="--wait")
    return int(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[found[2] or "s"]


@cli.command()
def route(
    file: MessageFile,
    offline: Annotated[bool, typer.Option("--offline", help="From the files alone, without a broker.")] = False,
    channel: Annotated[str, typer.Option(help="As if it came in over this channel.")] = "http",
    party: Annotated[str | None, typer.Option(help="As if this party sent it.")] = None,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Explain what would become of a message, rule by rule; nothing is sent."""
    from broker.commands import route

    said = Say(as_json=json, no_colour=no_color)
    code = route.route(
        file, admin=admin, config=config, offline=offline, channel=channel, party=party, say=said
    )  # fmt: skip
    raise typer.Exit(code)


@cli.command()
def trace(
    id: MessageId,
    body: Annotated[bool, typer.Option("--body", help="Print the bytes as they came instead.")] = False,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Tell the whole story of a message, with times."""
    from broker.commands import trace, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(trace.trace(where.admin(admin, config), id, say=said, body=body))


@cli.command()
def tail(
    endpoint: Annotated[str | None, typer.Argument(help="Whose mailbox; without it, all of them.")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Begin after this position; else from now on.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what is there, and end.")] = False,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Follow a mailbox, a line a message. It reads as any reader does: what it shows counts as read."""
    from broker.commands import tail, where

    said = Say(as_json=json, no_colour=no_color)
    base_url = where.settings(config).broker.base_url
    code = tail.tail(base_url, where.admin(admin, config), endpoint, after=after, once=once, say=said)
    raise typer.Exit(code)


# -- what lies where


@mailbox_cli.command("ls")
def mailbox_ls(config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False) -> None:
    """List the mailboxes."""
    from broker.commands import look, where

    raise typer.Exit(look.mailboxes(where.admin(admin, config), say=Say(as_json=json, no_colour=no_color)))


@mailbox_cli.command("read")
def mailbox_read(
    endpoint: Annotated[str, typer.Argument(help="Whose mailbox.")],
    after: After = 0,
    limit: Limit = 50,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """List what a mailbox holds; it does not count as read by that."""
    from broker.commands import look, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(look.mailbox(where.admin(admin, config), endpoint, after=after, limit=limit, say=said))


@dead_cli.command("ls")
def dead_ls(
    after: After = 0,
    limit: Limit = 50,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """List the dead letters, oldest first."""
    from broker.commands import dead, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(dead.ls(where.admin(admin, config), limit=limit, after=after, say=said))


@dead_cli.command("show")
def dead_show(
    id: MessageId, config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False
) -> None:
    """Tell the story of a message that has dead letters."""
    from broker.commands import dead, where

    raise typer.Exit(dead.show(where.admin(admin, config), id, say=Say(as_json=json, no_colour=no_color)))


@dead_cli.command("redrive")
def dead_redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Whose dead letters.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    number: Number = None,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Send dead letters on their way again, due at once."""
    from broker.commands import dead, where

    said = Say(as_json=json, no_colour=no_color)
    code = dead.redrive(where.admin(admin, config), ids or [], everything=everything, number=number, say=said)
    raise typer.Exit(code)


@dead_cli.command("drop")
def dead_drop(
    id: MessageId,
    reason: Annotated[str, typer.Option(help="Why; it stays in the trace.")],
    number: Number = None,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Give dead letters up for good; the trace stays."""
    from broker.commands import dead, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(dead.drop(where.admin(admin, config), id, reason=reason, number=number, say=said))


@lanes_cli.command("ls")
def lanes_ls(config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False) -> None:
    """List the lanes."""
    from broker.commands import lanes, where

    raise typer.Exit(lanes.ls(where.admin(admin, config), say=Say(as_json=json, no_colour=no_color)))


@lanes_cli.command("hold")
def lanes_hold(
    name: LaneName,
    reason: Annotated[str | None, typer.Option(help="Why; everybody who lists the lanes reads it.")] = None,
    begins: Annotated[str | None, typer.Option("--from", metavar="TIME", help=f"{TIME} Without it, now.")] = None,
    ends: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help=f"{TIME} Without it, until it is resumed.")
    ] = None,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Let nothing go to a peer; what is for it waits."""
    from broker.commands import lanes, where

    said = Say(as_json=json, no_colour=no_color)
    code = lanes.hold(where.admin(admin, config), name, reason=reason, begins=begins, ends=ends, say=said)
    raise typer.Exit(code)


@lanes_cli.command("resume")
def lanes_resume(
    name: LaneName, config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False
) -> None:
    """End a hold, planned or begun."""
    from broker.commands import lanes, where

    raise typer.Exit(lanes.resume(where.admin(admin, config), name, say=Say(as_json=json, no_colour=no_color)))


@streams_cli.command("ls")
def streams_ls(
    limit: Limit = 50, config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False
) -> None:
    """List the streams that are held, and those in which some wait for others."""
    from broker.commands import streams, where

    raise typer.Exit(streams.ls(where.admin(admin, config), limit=limit, say=Say(as_json=json, no_colour=no_color)))


@streams_cli.command("resume")
def streams_resume(
    id: MessageId,
    number: Number = None,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Let a stream go on past the dead letter that holds it; ID is the dead letter's message."""
    from broker.commands import streams, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(streams.resume(where.admin(admin, config), id, number=number, say=said))


@directory_cli.command("ls")
def directory_ls(
    after: After = 0,
    limit: Limit = 100,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """List the names that are known, in the order in which they are asked."""
    from broker.commands import look, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(look.directory(where.admin(admin, config), after=after, limit=limit, say=said))


@directory_cli.command("lookup")
def directory_lookup(
    name: Annotated[str, typer.Argument(help="An endpoint.")],
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Say where a name leads, and how that was found."""
    from broker.commands import look, where

    raise typer.Exit(look.lookup(where.admin(admin, config), name, say=Say(as_json=json, no_colour=no_color)))


@directory_cli.command("refresh")
def directory_refresh(
    config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False
) -> None:
    """Read the sources of the directory now."""
    from broker.commands import look, where

    raise typer.Exit(look.refresh(where.admin(admin, config), say=Say(as_json=json, no_colour=no_color)))


def main() -> None:
    """The program `fhir-broker`."""
    try:
        cli(prog_name="fhir-broker")
    except Ended as ended:
        if ended.text:
            typer.echo(ended.text, err=True)
        sys.exit(ended.code)
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it


if __name__ == "__main__":
    main()

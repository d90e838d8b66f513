"""The command line: `fhir-broker`. Each command imports what it needs when it is called, so that help is quick."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.commands import groups
from broker.commands.ends import Ended, Exit
from broker.commands.options import (
    Admin,
    AsJson,
    Config,
    Insecure,
    MessageFile,
    MessageId,
    NoColor,
    Plugins,
)  # fmt: skip
from broker.commands.say import Say

HELP = """\
Takes FHIR messages in, keeps them, carries them on and brings the answers back.

Exit codes: 0 ok, 1 failed, 2 wrong usage or configuration, 3 refused by the broker, 4 the broker cannot be reached.
"""

cli = typer.Typer(
    name="fhir-broker", help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

for group in groups.ALL:
    cli.add_typer(group)


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


@cli.command("verify-durability")
def verify_durability(
    folder: Annotated[Path | None, typer.Argument(help="On the disk to prove; else beside the store.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Kills.")] = 10,
    seconds: Annotated[float | None, typer.Option(min=1, help="Go on so long, instead of so many kills.")] = None,
    senders: Annotated[int, typer.Option(min=1, max=256, help="Who send at once.")] = 16,
    seed: Annotated[int | None, typer.Option(min=1, help="The same dice as a run before.")] = None,
    config: Config = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Kill a broker of its own again and again under load, and look whether anything acknowledged is lost."""
    from broker.commands import durability, where

    place = folder or durability.default_folder(Path(where.settings(config).store.path))
    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(durability.verify(place, rounds=rounds, seconds=seconds, senders=senders, seed=seed, say=said))


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


@cli.command()
def report(
    begins: Annotated[str | None, typer.Option("--from", metavar="DAY", help="Or a time; else 30 days back.")] = None,
    ends: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Or a time; else now.")] = None,
    source: Annotated[str | None, typer.Option(metavar="ENDPOINT", help="One source only.")] = None,
    party: Annotated[str | None, typer.Option(metavar="NAME", help="The endpoints of one party only.")] = None,
    what: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Messages that are open, missing, negative, undelivered.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Messages at most; else 50, and all with --csv.")] = None,
    totals: Annotated[bool, typer.Option("--totals", help="The sums, without the messages.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: the messages, or with --totals the sums.")] = False,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Tell of receipts: messages without one, negative ones, and what was wrongly addressed."""
    from broker.commands import report, where

    if as_csv and json:
        raise typer.BadParameter("--csv or --json, not both")
    code = report.report(
        where.admin(admin, config), begins=begins, ends=ends, source=source, party=party, what=what,
        limit=limit or (1 << 31 if as_csv else 50), totals=totals, as_csv=as_csv,
        say=Say(as_json=json, no_colour=no_color),
    )  # fmt: skip
    raise typer.Exit(code)


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

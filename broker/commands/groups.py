"""The commands that come in groups: what lies where, and who is reached. Each imports what it needs when called."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.commands.options import (
    TIME,
    Admin,
    After,
    AsJson,
    Config,
    LaneName,
    Limit,
    MessageId,
    NoColor,
    Number,
    SubscriptionId,
)
from broker.commands.say import Say


def _group(name: str, text: str) -> typer.Typer:
    return typer.Typer(name=name, help=text, no_args_is_help=True, rich_markup_mode=None)


mailbox_cli = _group("mailbox", "What lies in the mailboxes.")
dead_cli = _group("dead", "Dead letters: what was given up, and what to do with it.")
streams_cli = _group("streams", "Where order is asked: what is held, and what waits for what goes before it.")
lanes_cli = _group("lanes", "The peers: what waits for each, and whether it is left alone for now.")
directory_cli = _group("directory", "Who lives where.")
subscriptions_cli = _group("subscriptions", "Who is told of what, how far behind, and in which trouble.")
ALL = (mailbox_cli, dead_cli, streams_cli, lanes_cli, directory_cli, subscriptions_cli)


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


@subscriptions_cli.command("ls")
def subscriptions_ls(
    status: Annotated[str | None, typer.Option(help="Only those: requested, active, error or off.")] = None,
    after: After = 0,
    limit: Limit = 50,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """List the subscriptions, as they were created."""
    from broker.commands import subscriptions, where

    said = Say(as_json=json, no_colour=no_color)
    at = where.admin(admin, config)
    raise typer.Exit(subscriptions.ls(at, status=status, after=after, limit=limit, say=said))


@subscriptions_cli.command("show")
def subscriptions_show(
    id: SubscriptionId, config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False
) -> None:
    """Show one, and the notification on its way to it."""
    from broker.commands import subscriptions, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(subscriptions.show(where.admin(admin, config), id, say=said))


@subscriptions_cli.command("off")
def subscriptions_off(
    id: SubscriptionId,
    reason: Annotated[str | None, typer.Option(help="Why; its client reads it.")] = None,
    config: Config = None,
    admin: Admin = None,
    json: AsJson = False,
    no_color: NoColor = False,
) -> None:
    """Switch one off: nothing is counted for it or sent any more."""
    from broker.commands import subscriptions, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(subscriptions.switch(where.admin(admin, config), id, on=False, reason=reason, say=said))


@subscriptions_cli.command("on")
def subscriptions_on(
    id: SubscriptionId, config: Config = None, admin: Admin = None, json: AsJson = False, no_color: NoColor = False
) -> None:
    """Switch one on: it is greeted anew, and goes on where it stopped."""
    from broker.commands import subscriptions, where

    said = Say(as_json=json, no_colour=no_color)
    raise typer.Exit(subscriptions.switch(where.admin(admin, config), id, on=True, reason=None, say=said))

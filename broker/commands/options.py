"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

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
SubscriptionId = Annotated[str, typer.Argument(metavar="ID", help="The id of the Subscription.")]

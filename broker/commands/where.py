"""Which configuration a command means, and where the running broker is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from broker.commands.ends import Ended, Exit

if TYPE_CHECKING:
    from broker.config import Settings

PLACES = (Path("broker.yaml"), Path("config/broker.yaml"))


def configuration(given: Path | None) -> Path:
    """The file that was named, or the first of the usual places that is there."""
    if given is not None:
        return given
    for place in PLACES:
        if place.is_file():
            return place
    looked = " and ".join(f"./{place}" for place in PLACES)
    text = f"no configuration: looked for {looked}; name one with --config, or write one with `fhir-broker init`"
    raise Ended(Exit.USAGE, text)


def settings(given: Path | None, *, insecure: bool = True) -> Settings:
    """The settings; who only asks a running broker does not judge how it was started, so `insecure` passes."""
    from broker.config import ConfigurationErrors, load

    file = configuration(given)
    try:
        return load(file, env=os.environ, insecure=insecure)
    except ConfigurationErrors as errors:
        raise Ended(Exit.USAGE, "\n".join(map(str, errors.mistakes))) from None


def admin(given: str | None, config: Path | None) -> str:
    """The admin interface: what `--admin` says, or `admin.listen` of the configuration."""
    listen = given or settings(config).admin.listen
    if listen.startswith("unix:"):
        return listen
    if "://" in listen:
        return listen.rstrip("/")
    host, _, port = listen.rpartition(":")
    if port == "0":
        raise Ended(Exit.USAGE, "admin.listen asks for any free port (0); say which it is with --admin HOST:PORT")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"http://{host}:{port}"

"""`fhir-broker schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import orjson

from broker import config
from broker.channel import ChannelSpec
from broker.config.installed import Installed

OK = 0
BAD_PLUGIN = 2


def schema(
    *,
    plugins: Sequence[Path] = (),
    channels: Mapping[str, ChannelSpec] | None = None,
    out: TextIO | None = None,
) -> int:
    """Prints the schema, with the settings of all channels, installed or in these folders; returns the exit code."""
    out = out or sys.stdout
    offered = Installed(plugins, entries=channels)
    try:
        written = orjson.dumps(config.schema(offered), option=orjson.OPT_INDENT_2).decode()
    except ValueError as error:
        out.write(f"a channel cannot be loaded: {error}\n")
        return BAD_PLUGIN
    out.write(f"{written}\n")
    return OK

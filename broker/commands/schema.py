"""`fhir-broker schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

import orjson

from broker import config
from broker.channel import ChannelSpec

OK = 0


def schema(*, channels: Mapping[str, ChannelSpec] | None = None, out: TextIO | None = None) -> int:
    """Prints the schema, with the settings of every channel that is installed; returns the exit code."""
    written = orjson.dumps(config.schema(channels), option=orjson.OPT_INDENT_2).decode()
    (out or sys.stdout).write(f"{written}\n")
    return OK

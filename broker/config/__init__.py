"""The YAML in, validated frozen settings out; every mistake at once, with file:line:column.

`places` reads the file, `whole` (of `forms`, `rules` and the channels' `blocks`) says what may stand in it,
`complaints` tells what does not fit, `freeze` makes the plain values of `settings`, `topics` reads the files of topics,
and `sense`, `rule_sense` and `subscription_sense` look at what all that says together. pydantic stays inside this room.
"""

from broker.config.mistake import ConfigurationErrors, Mistake
from broker.config.reading import load
from broker.config.settings import Settings
from broker.config.whole import schema

__all__ = ["ConfigurationErrors", "Mistake", "Settings", "load", "schema"]

"""The form of a whole file: the broker's own settings and the blocks of its channels, and the JSON Schema of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import Field, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from broker.channel import ChannelSpec
from broker.config import forms, quantities
from broker.config.blocks import form_of, make
from broker.config.installed import Installed
from broker.config.kinds import Form

# The channels that are planned, so that somebody who asks for one hears that it is to come (design: section 1).
SCHEMES_TO_COME = {
    "amqp10": "amqp10", "file": "file", "mqtt": "mqtt", "mqtts": "mqtt", "kafka": "kafka",
    "sftp": "sftp", "ftp": "ftp", "ftps": "ftp", "mllp": "mllp", "soap": "soap",
}  # fmt: skip
CHANNELS_TO_COME = frozenset(SCHEMES_TO_COME.values())


class Channels(Form):
    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, data: Any) -> Any:
        """A channel that is named without settings is on, with its defaults."""
        if not isinstance(data, dict):
            return data
        return {name: {} if block is None else block for name, block in data.items()}


def whole_form(channels: Mapping[str, ChannelSpec]) -> type[forms.Configuration]:
    """The form with the blocks of these channels."""
    blocks: dict[str, Any] = {
        f"{name}_": (
            form_of(spec.settings),
            Field(None, alias=name, description=f"Settings of the channel {name}."),
        )
        for name, spec in sorted(channels.items())
    }
    block = make("Channels", __base__=Channels, **blocks)
    whole = forms.Configuration.model_fields["channels"]
    form: type[forms.Configuration] = make(
        "Configuration",
        __base__=forms.Configuration,
        __doc__=forms.Configuration.__doc__,
        channels=(block, Field(default_factory=block, description=whole.description)),
    )
    return form


def schema(channels: Mapping[str, ChannelSpec] | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the configuration, with what every setting means and its default."""
    form = whole_form(Installed() if channels is None else channels)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "fhir-broker",
        **form.model_json_schema(schema_generator=_Schema),
    }


class _Schema(GenerateJsonSchema):
    """No titles made of keys; durations as they are written."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        default = schema.get("default")
        if made.get("pattern") == quantities.DURATION and isinstance(default, timedelta):
            made["default"] = quantities.written_duration(default)
        elif made.get("pattern") == quantities.SIZE and isinstance(default, int):
            made["default"] = quantities.written_size(default)
        return made

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("title", None)
        return made

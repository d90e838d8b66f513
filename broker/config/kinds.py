"""The kinds of values that settings are made of, as pydantic reads them out of a file whose scalars are text."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from broker.config import listening, patterns, quantities
from broker.config.mistake import Wrong
from broker.core.fhir.header import Release


class Form(BaseModel):
    """A mapping with known keys. A key without a value is as good as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):  # a default
        return value
    if value not in ("true", "false"):
        raise Wrong("must be true or false")
    return bool(value == "true")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise Wrong("must be a network such as 10.0.0.0/8") from None
    return value


def _dotted_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", value):
        raise Wrong("must be a domain's name turned round, such as org.example")
    return value


def _release(value: Any) -> Any:
    if isinstance(value, str) and value.upper() in Release.__members__:
        known = ", ".join(release.value for release in Release)
        raise Wrong(f"must be one of {known}", f"did you mean {Release[value.upper()].value}?")
    return value


def _listen(value: str) -> str:
    return str(listening.listen(value))


def _base_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        well_formed = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed or parts.scheme not in ("http", "https"):
        raise Wrong("must be a URL that begins with http:// or https://")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise Wrong("must have no query and no fragment")
    if parts.username is not None:
        raise Wrong("must have no user part")
    return value.rstrip("/")


def _text_like(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_A_DURATION = _text_like(quantities.DURATION, "250ms", "10s", "15m", "24h", "90d")
_A_SIZE = _text_like(quantities.SIZE, "500kB", "64KiB", "32MiB", "1GiB")
_AS_DURATION = PlainSerializer(quantities.written_duration, return_type=str)
_AS_SIZE = PlainSerializer(quantities.written_size, return_type=str)

Text = Annotated[str, StringConstraints(min_length=1)]
Flag = Annotated[bool, BeforeValidator(_yes_or_no), WithJsonSchema({"type": "boolean"})]
Duration = Annotated[timedelta, BeforeValidator(quantities.duration), _AS_DURATION, _A_DURATION]
Span = Annotated[timedelta, BeforeValidator(quantities.span), _AS_DURATION, _A_DURATION]
Size = Annotated[int, BeforeValidator(quantities.size), _AS_SIZE, _A_SIZE]
Listen = Annotated[str, AfterValidator(_listen)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
DottedName = Annotated[str, AfterValidator(_dotted_name)]
AbsoluteUri = Annotated[str, AfterValidator(patterns.absolute_uri)]
Name = Annotated[str, AfterValidator(patterns.name)]
NamePattern = Annotated[str, AfterValidator(patterns.name_pattern)]
AddressPattern = Annotated[str, AfterValidator(patterns.address_pattern)]
TargetPattern = Annotated[str, AfterValidator(patterns.target_pattern)]
AsItStands = Annotated[str, AfterValidator(patterns.as_it_stands)]
StarAtEnd = Annotated[str, AfterValidator(patterns.star_at_end)]

ONE_OR_MORE = BeforeValidator(_one_or_more)  # text, or a list of it; a tuple inside
_LISTED = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
_SOME = Field(min_length=1)  # an empty list would match everything, or nothing: say neither
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], ONE_OR_MORE, _LISTED]
Strings = Annotated[tuple[str, ...], ONE_OR_MORE, _LISTED]
Texts = Annotated[tuple[Text, ...], _SOME, ONE_OR_MORE, _LISTED]
Names = Annotated[tuple[Name, ...], _SOME, ONE_OR_MORE, _LISTED]
NamePatterns = Annotated[tuple[NamePattern, ...], _SOME, ONE_OR_MORE, _LISTED]
AddressPatterns = Annotated[tuple[AddressPattern, ...], _SOME, ONE_OR_MORE, _LISTED]
TargetPatterns = Annotated[tuple[TargetPattern, ...], _SOME, ONE_OR_MORE, _LISTED]
AsTheyStand = Annotated[tuple[AsItStands, ...], _SOME, ONE_OR_MORE, _LISTED]
StarsAtEnd = Annotated[tuple[StarAtEnd, ...], _SOME, ONE_OR_MORE, _LISTED]
_RELEASE = {"type": "string", "enum": [release.value for release in Release]}
FhirVersion = Annotated[Release, BeforeValidator(_release)]
Releases = Annotated[
    tuple[FhirVersion, ...],
    _SOME,
    ONE_OR_MORE,
    WithJsonSchema({"anyOf": [_RELEASE, {"type": "array", "items": _RELEASE, "minItems": 1}]}),
]

"""What may stand in the configuration file: each setting once, with its kind, its default and what it means.

The JSON Schema and the settings page are made of these declarations. What leaves the room are the plain values of
`broker.config.settings`; their twins here have the same names. Routes and their policies are in `rules`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, WithJsonSchema

from broker.config.kinds import (
    AbsoluteUri,
    AddressPatterns,
    BaseUrl,
    DottedName,
    Duration,
    FhirVersion,
    Flag,
    Form,
    Listen,
    NamePatterns,
    Size,
    Span,
    TargetPatterns,
    Text,
    Texts,
)
from broker.config.mistake import Wrong
from broker.config.rules import LaneForm, PolicyForm, RetryForm, RuleForm
from broker.config.settings import Subscriptions as Subscribing
from broker.core.fhir.header import STATUS_EVENT, Release
from broker.core.subscription import life
from broker.core.subscription.subscription import Content
from broker.core.subscription.wrap import EVENT

MIB = 2**20
GIB = 2**30


class Limits(Form):
    message: Size = Field(default=32 * MIB, ge=1, description="The largest message that is taken.")
    in_flight: Size = Field(
        default=256 * MIB,
        ge=1,
        description="Bytes of messages held in memory at once; above it senders hear a clear later. Large ones that are"
        " being sent may take as much again.",
    )
    hops: int = Field(default=16, ge=1, description="Brokers a message may have passed; more is taken for a loop.")
    clock_skew: Duration = Field(
        default=timedelta(seconds=5), description="How far partners' clocks may differ from ours."
    )


class Broker(Form):
    endpoint: AbsoluteUri = Field(
        description="Who this broker is: its name in `via`, and the source of the bounces it writes."
    )
    base_url: BaseUrl = Field(description="How others reach its FHIR base, as they see it from outside.")
    fhir: FhirVersion = Field(default=Release.R4, description="The FHIR version for clients that do not say which.")
    event_prefix: DottedName = Field(
        default="org.example", description="`ce-type` of a message is this prefix, a dot, and the event's code."
    )
    status_event: Text = Field(
        default=str(STATUS_EVENT),
        description="Event (code, or system|code) of messages that ask how far another one is: the broker"
        " answers them.",
    )
    limits: Limits = Field(default_factory=Limits, description="What one message, and all together, may take.")


class Retention(Form):
    body: Span = Field(default=timedelta(days=90), description="The bytes of messages that have ended.")
    mailbox: Span = Field(default=timedelta(days=90), description="Messages in mailboxes, read or not.")
    identity: Span = Field(
        default=timedelta(days=90), description="What recognises a copy. Not shorter than the longest `retry.give_up`."
    )
    trace: Span = Field(
        default=timedelta(days=400),
        description="What happened to a message, and when; with it the events that subscriptions heard of.",
    )


class Store(Form):
    url: Text = Field(default="sqlite:data/broker.db", description="Where accepted messages are kept: `sqlite:PATH`.")
    min_free: Size = Field(
        default=GIB, description="Below this much free disk nothing new is accepted; what is kept is still delivered."
    )
    max_wal: Size = Field(
        default=256 * MIB,
        ge=4 * MIB,
        description="The store's log may grow to this before nothing new is accepted; it grows while something outside"
        " reads the store for long.",
    )
    retention: Retention = Field(
        default_factory=Retention,
        description="How long things are kept. Nothing waiting, unanswered or dead is removed.",
    )


class Admin(Form):
    listen: Listen = Field(
        default="127.0.0.1:8079",
        description="Where `/admin/v1`, `/console/`, `/metrics` and `/health` are: host:port or unix:PATH.",
    )


def _not_yet(_: Any) -> Any:
    raise Wrong("is not in this release", "take it out for now")


NotYet = Annotated[Any, BeforeValidator(_not_yet), WithJsonSchema({"not": {}})]


class Party(Form):
    endpoints: NamePatterns = Field(
        default=(),
        description="The endpoints it owns: it may send as these, and read their mailboxes. Not enforced yet (`auth`).",
    )
    relays_for: NamePatterns = Field(
        default=(),
        description="Endpoints it may carry messages for without owning them. Not enforced yet (`auth`).",
    )
    broker: Flag = Field(
        default=False,
        description="It is a broker: envelope attributes that steer are honoured from it, once `auth` tells who it is.",
    )
    content: Content | None = Field(
        default=None,
        description="The most that its subscriptions are told: empty, id-only or full-resource; absent:"
        " as `subscriptions.content`. It counts where the party is known, once `auth` tells who it is.",
    )
    auth: NotYet = Field(default=(), description="How it proves itself. Not in this release.")


class Allow(Form):
    response_url: AddressPatterns = Field(default=(), description="Where the `response-url` of a request may point.")


def _way(value: Any) -> Any:
    """An endpoint's value: an address, a list of them (all), `{first: […]}` or `direct`."""
    if isinstance(value, str):
        return {"all": [value]}
    if isinstance(value, list):
        return {"all": value}
    if isinstance(value, dict) and "all" not in value:
        return value
    raise Wrong("must be an address, a list of addresses, {first: [addresses]} or direct")


class Addresses(Form):
    all: tuple[Text, ...] = Field(default=(), min_length=1)
    first: tuple[Text, ...] = Field(default=(), min_length=1, description="The next one when the one before is down.")


_LIST_OF_TEXT = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Way = Annotated[
    Addresses,
    BeforeValidator(_way),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                _LIST_OF_TEXT,
                {
                    "type": "object",
                    "properties": {"first": _LIST_OF_TEXT},
                    "required": ["first"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


def _source(value: Any) -> Any:
    """A source: the name of a file, the URL of a server, or a mapping that says more of a server."""
    if isinstance(value, str):
        return {"url": value}
    if isinstance(value, dict):
        return value
    raise Wrong("must be the name of a file, the URL of a FHIR server, or {url: …, headers: …}")


class Source(Form):
    url: Text = Field(description="The FHIR base of a server; or, where nothing else is said, the name of a file.")
    headers: dict[Text, Text] = Field(
        default_factory=dict, description="What is sent along: `Authorization`, an API key; `${file:…}` for secrets."
    )
    ca: Text | None = Field(default=None, description="The authorities whose certificates it may show, PEM.")
    cert: Text | None = Field(default=None, description="Our own certificate, where it asks for one, PEM.")
    key: Text | None = Field(default=None, description="The private key of `cert`, PEM.")
    types: Texts = Field(
        default=(),
        description="The resources that are read; absent: Endpoint, Organization, and of HealthcareService, Location "
        "and OrganizationAffiliation those that it says it has.",
    )


_SOURCE = Annotated[Source, BeforeValidator(_source)]
_SERVER = {
    "type": "object",
    "properties": {
        "url": {"type": "string"},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "ca": {"type": "string"},
        "cert": {"type": "string"},
        "key": {"type": "string"},
        "types": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    },
    "required": ["url"],
    "additionalProperties": False,
}
_SOURCES_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [{"type": "string"}, _SERVER]}}]}
)


def _some_sources(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


Sources = Annotated[tuple[_SOURCE, ...], BeforeValidator(_some_sources), _SOURCES_SCHEMA]


class Directory(Form):
    refresh: Span = Field(
        default=timedelta(minutes=15), description="How often the sources are read again; a file that changes, at once."
    )
    sources: Sources = Field(
        default=(),
        description="What says who lives where: files (YAML, or FHIR Bundles; `*` in a name is any), and FHIR servers "
        "by the URL of their base, or as `{url: …}` with `headers`, `ca`, `cert`, `key` and `types`.",
    )
    endpoints: dict[str, Way] = Field(
        default_factory=dict,
        description="Endpoint to address: one, a list (all of them), `{first: […]}` or `direct`. "
        "A name that ends in `.*` stands for all that begin alike; `*` is the default gateway.",
    )


_DEFAULT = {field.name: field.default for field in msgspec.structs.fields(Subscribing)}


class Subscriptions(Form):
    topics: Texts = Field(
        default=(),
        description="Files that say what may be subscribed to; `*` in a name is any. YAML: our short form"
        " (docs/topics.md), JSON and XML: SubscriptionTopic resources. Read at the start.",
    )
    allow: TargetPatterns = Field(
        default=(),
        description="Where notifications may be sent: address patterns, `mailto:*@host`, or an address without a host"
        " whose last value may end in `*`, such as `amqp:?routing_key=told.*`. Absent: only sockets are told.",
    )
    content: Content = Field(
        default=_DEFAULT["content"],
        description="The most that whoever has no `content` of its own is told: empty, id-only or full-resource.",
    )
    most: int = Field(default=_DEFAULT["most"], ge=1, description="Subscriptions there may be at once.")
    without_previous: Flag = Field(
        default=False,
        description="Rules of SubscriptionTopic resources over the state before, which a broker does not hold, are left"
        " out; otherwise such a topic is a mistake. The topic then tells of more than it was written to.",
    )
    retry: RetryForm = Field(
        default_factory=RetryForm,
        description="When a notification is tried again, and given up; what is left unsaid comes from `defaults`.",
    )
    lane: LaneForm = Field(
        default_factory=LaneForm,
        description="What goes to one subscriber's peer; what is left unsaid comes from `defaults`.",
    )
    error_after: int = Field(
        default=life.Policy().error_after, ge=1, description="Failed attempts in a row after which the status is error."
    )
    off_after: Span = Field(
        default=life.Policy().off_after, description="So long in error, and a subscription is switched off."
    )
    heartbeat: Span = Field(
        default=_DEFAULT["heartbeat"], description="Heartbeats closer than this may not be asked for."
    )
    token: Span = Field(default=_DEFAULT["token"], description="How long a binding token of a socket is good for.")
    event: Text = Field(
        default=str(EVENT),
        description="Event (code, or system|code) of notifications that are sent as messages: FHIR names none.",
    )


class Log(Form):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is written."
    )
    format: Literal["auto", "console", "logfmt", "json"] = Field(
        default="auto", description="How a line looks; auto is console on a terminal and logfmt elsewhere."
    )


class Configuration(Form):
    """The configuration of a fhir-broker."""

    broker: Broker = Field(description="Who this broker is.")
    store: Store = Field(default_factory=Store, description="Where accepted messages are kept, and how long.")
    admin: Admin = Field(default_factory=Admin, description="The operator's own listener.")
    plugins: Texts = Field(
        default=(),
        description="Folders in which channels stand that are not installed, each in a folder of its name "
        "(docs/plugins.md). Only those that `channels` names are imported.",
    )
    channels: dict[str, Any] = Field(
        default_factory=dict, description="The protocols it speaks. What is absent is off."
    )
    parties: dict[Text, Party] = Field(default_factory=dict, description="Organisations and systems that send or read.")
    allow: Allow = Field(default_factory=Allow, description="Where messages may go beside the directory.")
    directory: Directory = Field(default_factory=Directory, description="Who lives where.")
    routes: tuple[RuleForm, ...] = Field(
        default=(), description="Rules, matched once per destination; the first that matches decides."
    )
    defaults: PolicyForm = Field(default_factory=PolicyForm, description="What a rule leaves unsaid.")
    subscriptions: Subscriptions | None = Field(
        default=None, description="Who may be told of what passes through; absent: nobody subscribes here."
    )
    log: Log = Field(default_factory=Log, description="What the daemon writes about itself; never a payload.")

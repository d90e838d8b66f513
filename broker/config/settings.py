"""The configuration as the rest of the broker sees it: frozen values, paths absolute, everything checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from broker.config.mistake import Mistake
from broker.core.fhir.header import Event, Release
from broker.core.policy import Policy, Rule
from broker.core.subscription import life
from broker.core.subscription.subscription import Content
from broker.core.subscription.topic import Topic
from broker.core.subscription.wrap import EVENT
from broker.directory.source import ServerSource


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    message: int  # bytes
    in_flight: int  # bytes
    hops: int
    clock_skew: timedelta


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: str
    base_url: str  # without a slash at the end
    fhir: Release
    event_prefix: str
    status_event: Event  # of messages that the broker answers itself
    limits: Limits


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    body: timedelta
    mailbox: timedelta
    identity: timedelta
    trace: timedelta


class Store(msgspec.Struct, frozen=True, kw_only=True):
    url: str  # sqlite: and an absolute path
    path: Path  # of the database file
    min_free: int  # bytes
    max_wal: int  # bytes
    retention: Retention


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    listen: str  # host:port, or unix: and an absolute path


class Party(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    endpoints: tuple[str, ...] = ()  # names, or patterns of them
    relays_for: tuple[str, ...] = ()
    broker: bool = False
    content: Content | None = None  # the most that its subscriptions are told; None: as `subscriptions.content`


class Allow(msgspec.Struct, frozen=True, kw_only=True):
    response_url: tuple[str, ...] = ()  # address patterns


Whereto = str | tuple[str, ...] | Mapping[str, tuple[str, ...]]


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    refresh: timedelta
    sources: tuple[str | ServerSource, ...] = ()  # files: absolute paths, with `*` as written
    # In the order of the file: an address, all of a list, `{first: …}`, or `direct`.
    endpoints: Mapping[str, Whereto] = MappingProxyType({})
    lines: Mapping[str, int] = MappingProxyType({})  # where each of them stands, for explanations


class Subscriptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who may be told of what; absent = nobody subscribes here."""

    topics: tuple[Topic, ...] = ()  # read and checked
    allow: tuple[str, ...] = ()  # address patterns: where notifications may be sent
    content: Content = Content.ID_ONLY  # the most that whoever has no cap of its own is told (S-63)
    most: int = 10_000  # subscriptions
    policy: life.Policy = life.Policy()
    delivery: Policy  # retries, give-up and lane of notifications
    token: timedelta = timedelta(minutes=30)  # how long a binding token of a socket is good for
    event: Event = EVENT  # of notifications that are sent as messages (S-49)
    heartbeat: timedelta = timedelta(seconds=10)  # the closest that is served


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(Enum):
    AUTO = "auto"
    CONSOLE = "console"
    LOGFMT = "logfmt"
    JSON = "json"


class Log(msgspec.Struct, frozen=True, kw_only=True):
    level: LogLevel
    format: LogFormat


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    file: Path
    broker: Broker
    store: Store
    admin: Admin
    plugins: tuple[Path, ...] = ()  # folders whose folders are channels; absolute
    channels: Mapping[str, Any] = MappingProxyType({})  # channel's name to its own settings value; absent = off
    parties: Mapping[str, Party] = MappingProxyType({})
    allow: Allow = Allow()
    directory: Directory
    routes: tuple[Rule, ...] = ()
    defaults: Policy
    subscriptions: Subscriptions | None = None
    log: Log
    insecure: bool = False  # run with --insecure, which /health shows
    warnings: tuple[Mistake, ...] = ()

"""A channel for these tests, whose settings use every kind that a plugin may declare, and a desk to write at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from broker.channel import ChannelSpec
from broker.config import ConfigurationErrors, Settings, load
from broker.core.tls import Tls


class Prefix(Enum):
    COLON = "colon"
    UNDERSCORE = "underscore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    memory: int = field(default=262144, metadata={"description": "Held in memory up to this.", "size": True})
    wait: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLike:
    """As the http channel's, and more."""

    listen: str = field(default="127.0.0.1:8080", metadata={"description": "Where it listens."})
    tls: Tls | None = None
    behind_proxy: tuple[str, ...] = ()
    client_ca: str | None = None
    user_agent: str = "test"
    bodies: Bodies = Bodies()
    backlog: int = 100
    compress: bool = False
    prefix: Prefix = Prefix.COLON
    from_: str | None = None
    root: Path | None = None
    queues: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    password: str = field(default="", metadata={"description": "Of the account."})

    def __post_init__(self) -> None:
        if self.backlog == 13:
            raise ValueError("backlog: thirteen brings no luck")


def peer_of(address: str) -> str:
    parts = urlsplit(address)
    if not parts.hostname:
        raise ValueError(f"there is no host in {address}")
    return f"{parts.scheme}://{parts.netloc}"


def never(*_: Any) -> Any:
    raise AssertionError("reading a configuration builds nothing")


HTTP = ChannelSpec(
    name="http", schemes=("http", "https"), settings=HttpLike, receiver=never, sender=never, peer_of=peer_of
)
CHANNELS = {"http": HTTP}


BROKER = """\
broker:
  endpoint: urn:oid:2.999.1
  base_url: http://127.0.0.1:8080/fhir
"""
HTTP_ON = "channels:\n  http: {listen: 127.0.0.1:8080}\n"


class Desk:
    """Writes a configuration into a folder of its own, and reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "broker.yaml"
        self.env: dict[str, str] = {}

    def write(self, text: str) -> Path:
        self.file.write_text(text, encoding="utf-8")
        return self.file

    def load(self, text: str, *, whole: bool = False, insecure: bool = False) -> Settings:
        """`text` comes after who the broker is and a channel, unless it is the whole file."""
        on = "" if "channels:" in text else HTTP_ON
        self.write(text if whole else BROKER + on + text)
        return load(self.file, env=self.env, channels=CHANNELS, insecure=insecure)

    def mistakes(self, text: str, *, whole: bool = False, insecure: bool = False) -> list[str]:
        """Text and hint of what is wrong, without the places."""
        with pytest.raises(ConfigurationErrors) as caught:
            self.load(text, whole=whole, insecure=insecure)
        return [f"{one.text} ({one.hint})" if one.hint else one.text for one in caught.value.mistakes]

    def warnings(self, text: str) -> list[str]:
        return [one.text for one in self.load(text).warnings]

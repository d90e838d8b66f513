"""What an operator sets for the email channel: the block `channels: email:`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from broker.core.tls import Tls, described
from plugins.email.address import checked

DEFAULT_PORT = {"smtp": 25, "smtps": 465}


class StartTls(StrEnum):
    """Whether a connection to the smarthost is encrypted with STARTTLS before anything is said."""

    AUTO = "auto"  # required, unless the smarthost is on this machine
    REQUIRED = "required"
    OPTIONAL = "optional"  # where it is offered; its certificate is checked all the same
    OFF = "off"


class Smarthost(msgspec.Struct, frozen=True, kw_only=True):
    """The smarthost, read out of its URL."""

    host: str
    port: int
    tls: bool  # from the first byte
    user: str | None = None
    password: str | None = None

    @property
    def is_loopback(self) -> bool:
        if self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailSettings:
    from_: str = field(
        metadata=described("Our own address: mails come from it, and reports of their failure come back to it.")
    )
    listen: str = field(
        default="127.0.0.1:8025",
        metadata=described("Where mails are taken in over SMTP: host:port, or unix:PATH."),
    )
    lmtp: str | None = field(
        default=None,
        metadata={**described("Where mails are taken in over LMTP, beside SMTP; absent: nowhere."), "listener": True},
    )
    recipients: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Addresses that mails are taken for: `local@domain`, or `*@domain`; absent: only `from`. Reports come to"
            " `from` in any case. What stands before the @ is the `path` that a rule may match."
        ),
    )
    tls: Tls | None = field(default=None, metadata=described("Certificate and key for STARTTLS; absent: not offered."))
    require_tls: bool = field(
        default=False, metadata=described("Take mails only after STARTTLS; on a Unix socket nobody is asked to.")
    )
    connections: int = field(
        default=100,
        metadata=described(
            "Connections that are served at once; the next ones hear 421. Counted for SMTP and LMTP together."
        ),
    )
    hostname: str | None = field(
        default=None, metadata=described("Our name in greetings; absent: the domain of `from`.")
    )
    smarthost: str = field(
        default="smtp://127.0.0.1:25",
        repr=False,  # it may hold a password
        metadata=described(
            "The server that all mails leave by: smtp://host:port, or smtps:// for TLS from the first byte;"
            " smtp://user:password@host:port to log in, with the password percent-encoded, best from `${file:PATH}`."
        ),
    )
    starttls: StartTls = field(
        default=StartTls.AUTO,
        metadata=described("STARTTLS towards an smtp:// smarthost; auto: required, unless it is on this machine."),
    )
    smarthost_ca: Path | None = field(
        default=None,
        metadata=described(
            "The authorities that the smarthost's certificate is checked against, PEM; absent: the system's."
        ),
    )

    def __post_init__(self) -> None:
        for key, mailbox in [("from", self.from_), *(("recipients", one) for one in self.recipients)]:
            try:
                checked("any" + mailbox[1:] if key == "recipients" and mailbox.startswith("*@") else mailbox)
            except ValueError as exc:
                raise ValueError(f"{key}: {exc}") from None
        if not self.from_.isascii():
            raise ValueError("from: our own address is written in ASCII, so that every server can report to it")
        if self.require_tls and self.tls is None:
            raise ValueError("require_tls needs tls: a certificate and its key")
        if self.connections < 1:
            raise ValueError("connections: at least 1")
        if self.hostname is not None and not (
            self.hostname.isascii()
            and self.hostname.replace(".", "").isprintable()
            and " " not in self.hostname
            and self.hostname
        ):
            raise ValueError("hostname: a host's name in ASCII")
        host = self.to()
        if (
            host.password is not None
            and not host.tls
            and not host.is_loopback
            and self.starttls in (StartTls.OPTIONAL, StartTls.OFF)
        ):
            raise ValueError(
                f"starttls: {self.starttls} would send the password in the clear; require it, or use smtps://"
            )

    def to(self) -> Smarthost:
        """The smarthost; ValueError says what is wrong with its URL, and never quotes it."""
        try:
            parts = urlsplit(self.smarthost)
            port = parts.port
        except ValueError:
            raise ValueError("smarthost: the URL cannot be read; its port is a number") from None
        if parts.scheme not in DEFAULT_PORT or not parts.hostname:
            raise ValueError("smarthost: smtp://host:port or smtps://host:port")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("smarthost: nothing follows the port; percent-encode / ? and # in a password")
        if (parts.username is None) != (parts.password is None):
            raise ValueError("smarthost: a user comes with a password: smtp://user:password@host")
        return Smarthost(
            host=parts.hostname,
            port=port or DEFAULT_PORT[parts.scheme],
            tls=parts.scheme == "smtps",
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )

    @property
    def name(self) -> str:
        """How we call ourselves to other servers."""
        return self.hostname or self.from_.rpartition("@")[2]

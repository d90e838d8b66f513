"""What an operator sets for the HTTP channel: the block `channels: http:`."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network

from broker.core.tls import Tls, described


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    listen: str = field(
        default="127.0.0.1:8080",
        metadata=described("Where the partner-facing server listens: host:port, or unix:PATH. Port 0: any free one."),
    )
    tls: Tls | None = field(default=None, metadata=described("Certificate and key; absent: plain HTTP."))
    behind_proxy: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Networks (CIDR) of the reverse proxies in front; X-Forwarded-For is believed from them only."
        ),
    )
    client_ca: str | None = field(
        default=None,
        metadata=described("CA bundle (PEM) that outgoing https is checked against; absent: the system's."),
    )
    user_agent: str = field(default="fhir-broker", metadata=described("User-Agent of outgoing requests."))

    def __post_init__(self) -> None:
        for network in self.behind_proxy:
            ip_network(network)  # ValueError names what is wrong with it
        if not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError("user_agent: printable ASCII only")

"""What an operator sets for the HTTP channel: the block `channels: http:`."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network

from broker.core.address_pattern import AddressPattern
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
    events_in_batch: int = field(
        default=1000, metadata=described("The most CloudEvents that one batch may have (`POST /events`).")
    )
    webhook_origins: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Senders that may send CloudEvents here, by the name that they ask with (`OPTIONS /events`); `*`: all."
        ),
    )
    webhook_rate: int = field(
        default=0, metadata=described("Events a minute that such a sender is allowed; 0: any number.")
    )

    structured_to: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Receivers that take everything as CloudEvents in structured mode, such as https://*.partner.example/events."
        ),
    )
    dataref_above: int = field(
        default=0,
        metadata={
            **described(
                "To the addresses of `dataref_to`, what is larger leaves as a CloudEvent without data, whose `dataref`"
                " says where it can be read here. 0: never."
            ),
            "size": True,
        },
    )
    dataref_to: tuple[str, ...] = field(
        default=(),
        metadata=described("Receivers that fetch what `dataref` names, such as https://*.partner.example/events."),
    )

    def __post_init__(self) -> None:
        for network in self.behind_proxy:
            ip_network(network)  # ValueError names what is wrong with it
        if self.events_in_batch < 1:
            raise ValueError("events_in_batch: at least 1")
        if self.dataref_above < 0 or bool(self.dataref_above) is not bool(self.dataref_to):
            raise ValueError("dataref_above: a size, together with dataref_to: neither means anything alone")
        for pattern in (*self.structured_to, *self.dataref_to):
            AddressPattern.parse(pattern)
        if self.webhook_rate < 0:
            raise ValueError("webhook_rate: 0 or more")
        for origin in self.webhook_origins:
            if not origin.isascii() or not origin.isprintable() or not origin or " " in origin:
                raise ValueError(f"webhook_origins: {origin!r} is no name that a header can carry")
        if not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError("user_agent: printable ASCII only")

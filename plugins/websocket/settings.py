"""What an operator sets for the WebSocket channel: the block `channels: websocket:`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from urllib.parse import urlsplit

from broker.core.tls import Tls, described


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketSettings:
    listen: str = field(
        default="127.0.0.1:8081",
        metadata=described("Where the WebSocket server listens: host:port, or unix:PATH. Port 0: any free one."),
    )
    url: str | None = field(
        default=None,
        metadata=described(
            "How others reach it, as they see it from outside: subscribers are told it, with `/subscriptions`. An"
            " address that leads here is refused."
        ),
    )
    tls: Tls | None = field(default=None, metadata=described("Certificate and key; absent: plain ws."))
    behind_proxy: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Networks (CIDR) of the reverse proxies in front; X-Forwarded-For is believed from them only."
        ),
    )
    origins: tuple[str, ...] = field(
        default=(),
        metadata=described(
            "Web pages that may connect, by origin (`https://app.example`). Programs send no Origin and always may."
        ),
    )
    ping: timedelta = field(
        default=timedelta(seconds=20),
        metadata=described("How often the other side is asked for a sign of life; without one as long, it is closed."),
    )
    connections: int = field(
        default=20_000, metadata=described("Connections at once; above it the handshake is answered with 503.")
    )
    under_way: int = field(
        default=64, metadata=described("Messages of one connection that are being taken in at once; the rest waits.")
    )
    window: int = field(
        default=1024, metadata=described("The most unacknowledged deliveries a reader may ask for at once.")
    )
    send_queue: int = field(
        default=65_536,
        metadata={
            **described("Bytes that wait for one slow reader; above it deliveries wait and live events are left out."),
            "size": True,
        },
    )
    client_ca: str | None = field(
        default=None,
        metadata=described("CA bundle (PEM) that outgoing wss is checked against; absent: the system's."),
    )
    idle: timedelta = field(
        default=timedelta(hours=1), metadata=described("An outgoing connection without messages is closed after this.")
    )

    def __post_init__(self) -> None:
        for network in self.behind_proxy:
            ip_network(network)  # ValueError names what is wrong with it
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
                raise ValueError("origins: each is written like https://app.example, without a path")
        if self.url is not None and (urlsplit(self.url).scheme not in ("ws", "wss") or not urlsplit(self.url).hostname):
            raise ValueError("url: begins with ws:// or wss:// and names a host")
        for name in ("connections", "under_way", "window", "send_queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1")
        if self.ping < timedelta(seconds=1):
            raise ValueError("ping: at least 1s")
        if self.idle < timedelta(seconds=1):
            raise ValueError("idle: at least 1s")

"""What the channels that are configured offer to subscribers, type by type."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from broker.core.subscription.check import ChannelOffer
from broker.core.subscription.subscription import OWN_CHANNELS, R5_CHANNELS


def channels_offered(configured: Collection[str], allow: Iterable[str]) -> Mapping[tuple[str, str], ChannelOffer]:
    """By system and code, as `Offer.channels`; `configured` are the names of the channels that are on.

    `allow` are the patterns of endpoints: plain http is served only where one of them names it (S-40).
    """
    web = ("https", "http") if any(text.lower().startswith("http:") for text in allow) else ("https",)
    every = {
        "rest-hook": ("http", ChannelOffer(schemes=web, cloudevents=True, classic=True)),
        "message": ("http", ChannelOffer(schemes=(*web, "urn"), headers=False)),  # urn: by the directory (S-51)
        "websocket": ("websocket", ChannelOffer(schemes=(), headers=False, cloudevents=True, classic=True)),
        "email": ("email", ChannelOffer(schemes=("mailto",), headers=False, mail=True)),
    }
    found = {(R5_CHANNELS, code): offer for code, (needed, offer) in every.items() if needed in configured}
    if "amqp" in configured:
        found[OWN_CHANNELS, "amqp"] = ChannelOffer(schemes=("amqp", "amqps"), cloudevents=True)
    return found

"""What somebody asked to be told: one value for R4 classic, R4/R4B backport and R5 (S-1, spec section 2)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from broker.core.fhir.header import Release
from broker.core.outcome import SubscriptionRefused

R4_CHANNELS = "http://hl7.org/fhir/subscription-channel-type"
R5_CHANNELS = "http://terminology.hl7.org/CodeSystem/subscription-channel-type"
OWN_CHANNELS = "urn:x-fhir-broker:channel"  # of the channel types that are ours: `amqp`
STANDARD_CHANNELS = frozenset({"rest-hook", "websocket", "email", "message"})
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
PROFILE = BACKPORT + "subscription"

HIDDEN = "(hidden)"  # stands where a secret is; written back by a client, it means the secret we have (S-60)


class Model(StrEnum):
    """The three models of S-1."""

    CLASSIC = "classic"  # R4: a search string, the bare resource or nothing
    BACKPORT = "backport"  # R4 and R4B: a topic, by extensions
    NATIVE = "native"  # R5 and later: a topic, by elements


class Status(StrEnum):
    REQUESTED = "requested"
    ACTIVE = "active"
    ERROR = "error"
    OFF = "off"
    ENTERED_IN_ERROR = "entered-in-error"


class Content(StrEnum):
    """How much a notification tells; each level tells more than the one before."""

    EMPTY = "empty"
    ID_ONLY = "id-only"
    FULL = "full-resource"

    def exceeds(self, cap: Content) -> bool:
        levels = list(Content)
        return levels.index(self) > levels.index(cap)


class ChannelType(msgspec.Struct, frozen=True):
    system: str  # one spelling for the standard codes, whatever the release: R5's
    code: str

    def __str__(self) -> str:
        return self.code if self.system == R5_CHANNELS else f"{self.system}|{self.code}"


class Header(msgspec.Struct, frozen=True):
    """A header line of R4, a parameter of R5 (S-7). Its value is taken for a secret, always (S-60)."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"Header({self.name!r}, {HIDDEN!r})"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """One condition; several are ANDed, commas inside the value are OR (S-58)."""

    parameter: str
    value: str
    resource_type: str = ""  # "" = whatever the topic's focus is
    modifier: str = ""  # not, missing, exact, …
    comparator: str = ""  # gt, le, …; in R4 and often in R5 it stands before the value instead

    def __str__(self) -> str:
        front = f"{self.resource_type}?" if self.resource_type else ""
        modifier = f":{self.modifier}" if self.modifier else ""
        return f"{front}{self.parameter}{modifier}={self.comparator}{self.value}"


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    model: Model
    release: Release  # of the resource; notifications use it too, unless the media type says otherwise (S-3)
    status: Status
    channel: ChannelType
    id: str = ""  # ours; "" until it is created
    topic: str = ""  # canonical, may carry `|version`; "" in the classic model
    criteria: str = ""  # the search string of the classic model
    filters: tuple[Filter, ...] = ()
    endpoint: str = ""
    headers: tuple[Header, ...] = ()
    media_type: str = ""  # as written; "" = the payload is empty (classic) or the server's choice
    content: Content | None = None  # None in the classic model, and where the client leaves it to us
    heartbeat: timedelta | None = None
    timeout: timedelta | None = None  # of one attempt (S-19)
    max_count: int | None = None
    end: datetime | None = None
    reason: str = ""
    kept: bytes = b"{}"  # elements that mean nothing to us (contact, name, meta, …), as JSON: read again as written

    @property
    def topic_url(self) -> str:
        """The topic without its version."""
        return self.topic.partition("|")[0]

    @property
    def topic_version(self) -> str:
        return self.topic.partition("|")[2]


def with_secrets_of(new: Subscription, old: Subscription) -> Subscription:
    """An update as it is meant: where a client writes back what we showed it, secrets stay what they were (S-60).

    Not where they would go elsewhere: whoever may write need not know the secret. Raises SubscriptionRefused.
    """
    before = list(old.headers)
    elsewhere = (new.endpoint, new.channel) != (old.endpoint, old.channel)
    headers = []
    for header in new.headers:
        same = next((known for known in before if known.name.lower() == header.name.lower()), None)
        if header.value == HIDDEN and same is not None:
            if elsewhere:
                raise SubscriptionRefused(
                    f"The endpoint changes: write the value of {header.name} again, which is not shown to anybody.",
                    id="secret-needed",
                    expression="Subscription.parameter" if new.model is Model.NATIVE else "Subscription.channel.header",
                )
            before.remove(same)  # of several with one name, each is the one at its place
            header = same
        headers.append(header)
    return msgspec.structs.replace(new, headers=tuple(headers))

"""How a message is treated: the policies that a rule or `defaults` sets (design: the contract, `routes`).

A policy is fixed when the message is accepted and stays with it; only the address is looked up anew at each attempt.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

import msgspec


class Expects(StrEnum):
    """What counts as an answer."""

    AUTO = "auto"  # the message says (M-34), else a response is looked for
    RESPONSE = "response"  # a response message, and the caller waits for it
    RECEIPT = "receipt"  # that the receiver took it
    NOTHING = "nothing"


class OnTimeout(StrEnum):
    ACCEPT = "accept"
    REFUSE = "refuse"


class Late(StrEnum):
    RETURN = "return"  # a response to a request that is closed takes the return path
    DROP = "drop"  # it is kept and shown, and goes nowhere


class Responses(StrEnum):
    """How many responses a request may have."""

    ONE = "one"
    SEVERAL = "several"  # it stays open until the last of them


class Order(StrEnum):
    NONE = "none"
    SOURCE = "source"
    SUBJECT = "subject"
    FOCUS = "focus"
    CORRELATION = "correlation"


class Sync(msgspec.Struct, frozen=True, kw_only=True):
    wait: timedelta = timedelta(seconds=10)  # how long a caller is kept who does not say
    longest: timedelta = timedelta(seconds=60)  # the most that a caller may ask for
    expects: Expects = Expects.AUTO
    on_timeout: OnTimeout = OnTimeout.ACCEPT
    late: Late = Late.RETURN


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    max: timedelta = timedelta(minutes=10)
    jitter: float = 0.2  # share of the wait, 0…1
    give_up: timedelta = timedelta(hours=24)  # after acceptance


class LanePolicy(msgspec.Struct, frozen=True, kw_only=True):
    concurrent: int = 16
    rate: float = 0.0  # attempts per second; 0 = no limit
    connect: timedelta = timedelta(seconds=5)
    answer: timedelta = timedelta(seconds=60)
    open_after: int = 5  # troubles of the peer in a row that close the lane
    probe: timedelta = timedelta(seconds=30)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    sync: Sync = Sync()
    answer_within: timedelta = timedelta(hours=24)
    responses: Responses = Responses.ONE
    final: tuple[str, ...] = ()  # events (code, or system|code; `*` anywhere) of the last of several responses
    retry: Retry = Retry()
    order: Order = Order.NONE
    on_refused: str = "skip"  # or hold (the stream)
    category: str | None = None  # consequence | currency | notification (M-27)
    reused_id: str = "refuse"  # or accept (M-22)
    duplicates: str = "answer"  # or forward (M-21)
    bounce: str = "always"  # or never
    unread: timedelta = timedelta(days=5)  # mailbox: reported to the source when nobody has read it by then
    lane: LanePolicy = LanePolicy()
    validate: str = "header"  # or resource
    priority: int = 0


DEFAULT = Policy()


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages a rule is for. A key's tuple means any of; several keys mean all of; an empty key matches all.

    `event` and `type` take `*` anywhere; `source`, `destination`, `receiver`, `sender`, `profile` end in `*` after a
    whole arc or segment (A-5); the rest is compared as it stands.
    """

    event: tuple[str, ...] = ()  # code, or system|code
    source: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    receiver: tuple[str, ...] = ()  # system|value
    sender: tuple[str, ...] = ()  # system|value
    party: tuple[str, ...] = ()
    channel: tuple[str, ...] = ()
    path: tuple[str, ...] = ()  # {name} of /in/{name}/$process-message
    header: tuple[tuple[str, tuple[str, ...]], ...] = ()  # transport header (lower case) and its values; `*` at the end
    profile: tuple[str, ...] = ()
    fhir: tuple[str, ...] = ()  # "4.0"
    type: tuple[str, ...] = ()  # CloudEvents type
    response: bool | None = None
    negated: Match | None = None  # the key `not`


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    match: Match = Match()
    to: tuple[str, ...] = ()  # destinations for a message that names none
    address: str | None = None  # instead of the directory's
    refuse: str | None = None  # the text of the refusal
    log: bool = False  # accepted, kept, goes nowhere
    cancels: bool = False  # it calls off what its source sent before about the same
    policy: Policy = DEFAULT
    where: str = ""  # file:line, for explanations

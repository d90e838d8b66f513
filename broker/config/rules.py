"""Routes as they stand in the file: which messages a rule is for, what becomes of them, and the policies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from broker.config.kinds import (
    AsTheyStand,
    Duration,
    Flag,
    Form,
    NamePatterns,
    Names,
    Releases,
    Span,
    StarsAtEnd,
    Text,
    Texts,
)
from broker.core.policy import DEFAULT, Expects, Late, OnTimeout, Order, Responses
from broker.core.turns import HIGHEST, LOWEST


class SyncForm(Form):
    wait: Duration = Field(default=DEFAULT.sync.wait, description="How long a caller is kept who does not say.")
    longest: Duration = Field(default=DEFAULT.sync.longest, description="The most that a caller may ask for.")
    expects: Expects = Field(
        default=DEFAULT.sync.expects,
        description="What counts as an answer: auto (the message says, else a response), response, receipt, nothing.",
    )
    on_timeout: OnTimeout = Field(
        default=DEFAULT.sync.on_timeout,
        description="When the wait ends: accept (202, we keep it) or refuse (504, what has not left is withdrawn).",
    )
    late: Late = Field(
        default=DEFAULT.sync.late,
        description="A response after the wait: return (it takes the return path) or drop (kept and shown).",
    )


class RetryForm(Form):
    first: Span = Field(default=DEFAULT.retry.first, description="The wait after the first attempt.")
    factor: float = Field(default=DEFAULT.retry.factor, ge=1, description="Each wait is so many times the one before.")
    max: Span = Field(default=DEFAULT.retry.max, description="No wait is longer.")
    jitter: float = Field(
        default=DEFAULT.retry.jitter, ge=0, le=1, description="The share of a wait that is left to chance."
    )
    give_up: Span = Field(default=DEFAULT.retry.give_up, description="So long after acceptance the delivery is dead.")


class LaneForm(Form):
    concurrent: int = Field(
        default=DEFAULT.lane.concurrent,
        ge=1,
        description="Attempts to one peer at a time; a single destination has three quarters of them at most.",
    )
    rate: float = Field(default=DEFAULT.lane.rate, ge=0, description="Attempts per second; 0 is no limit.")
    connect: Span = Field(default=DEFAULT.lane.connect, description="The limit for reaching the peer.")
    answer: Span = Field(default=DEFAULT.lane.answer, description="The limit for its whole answer.")
    open_after: int = Field(
        default=DEFAULT.lane.open_after,
        ge=1,
        description="Troubles in a row after which a destination, or the whole peer, is left alone.",
    )
    probe: Span = Field(default=DEFAULT.lane.probe, description="How often what is left alone is tried.")


class MailboxForm(Form):
    unread: Span = Field(
        default=DEFAULT.unread, description="Reported to the source, once, when nobody has read it by then."
    )


class PolicyForm(Form):
    """How a message is treated."""

    sync: SyncForm = Field(default_factory=SyncForm, description="How a caller is answered while it waits.")
    answer_within: Span = Field(
        default=DEFAULT.answer_within,
        description="How long a response is looked for; then the source is told that none came.",
    )
    responses: Responses = Field(
        default=DEFAULT.responses,
        description="How many responses a request may have: one closes it; with several it stays open until a"
        " final one, or until `answer_within` is over.",
    )
    final: Texts = Field(
        default=(),
        description="With `responses: several`: events of the final response (code, or system|code; `*` anywhere)."
        " Final as well are failures, and a Task in the message that is completed, rejected, failed or cancelled.",
    )
    retry: RetryForm = Field(default_factory=RetryForm, description="When a delivery is tried again.")
    order: Order = Field(
        default=DEFAULT.order,
        description="What goes to a destination one after the other, as it was accepted: nothing, or what has the same"
        " source, subject, focus or correlation.",
    )
    on_refused: Literal["skip", "hold"] = Field(
        default="skip",
        description="Where order is asked and a delivery is refused or given up: skip it, or hold what comes after it"
        " until an operator decides.",
    )
    category: Literal["consequence", "currency", "notification"] | None = Field(
        default=None, description="What a resubmission of the same content means."
    )
    reused_id: Literal["refuse", "accept"] = Field(
        default="refuse", description="The same identity with other content: refuse (409), or accept as a new message."
    )
    duplicates: Literal["answer", "forward"] = Field(
        default="answer",
        description="A copy gets the first answer, or goes on to the receiver, who answers its duplicates.",
    )
    bounce: Literal["always", "never"] = Field(
        default="always", description="Whether the source is told of a dead delivery."
    )
    mailbox: MailboxForm = Field(default_factory=MailboxForm, description="Of deliveries into mailboxes.")
    lane: LaneForm = Field(default_factory=LaneForm, description="What goes to one peer.")
    validate_: Literal["header", "resource"] = Field(
        default="header", alias="validate", description="What is checked before a message is accepted."
    )
    priority: Annotated[int, Field(ge=LOWEST, le=HIGHEST)] = Field(
        default=DEFAULT.priority,
        description="What goes first among what is due in a lane, 0 to 9, the higher first; after four of higher"
        " priority goes one of lower.",
    )


class MatchForm(Form):
    """Which messages a rule is for: a list is any of, several keys are all of."""

    event: Texts = Field(default=(), description="Event code, or system|code; `*` anywhere.")
    source: NamePatterns = Field(default=(), description="The endpoint it comes from.")
    destination: NamePatterns = Field(default=(), description="The endpoint it goes to.")
    receiver: NamePatterns = Field(default=(), description="Identifier (system|value) of the receiver.")
    sender: NamePatterns = Field(default=(), description="Identifier (system|value) of the sender.")
    party: AsTheyStand = Field(default=(), description="The party that handed it in.")
    channel: AsTheyStand = Field(default=(), description="The channel by which it came.")
    path: AsTheyStand = Field(default=(), description="The {name} of /in/{name}/$process-message.")
    header: dict[Text, StarsAtEnd] = Field(
        default_factory=dict, description="Transport headers and their values; `*` at the end."
    )
    profile: NamePatterns = Field(default=(), description="A profile in meta.profile of Bundle or MessageHeader.")
    fhir: Releases = Field(default=(), description="FHIR version, such as 4.0.")
    type: Texts = Field(default=(), description="CloudEvents type; `*` anywhere.")
    response: Flag | None = Field(default=None, description="Only responses (true), or none of them (false).")
    not_: MatchForm | None = Field(default=None, alias="not", description="And not those that match this.")


class RuleForm(PolicyForm):
    """One rule: messages it is for, what becomes of them, and the policies that differ from `defaults`."""

    name: Text | None = Field(default=None, description="For explanations; `rule 3` if it has none.")
    match: MatchForm = Field(default_factory=MatchForm, description="Which messages; without it, every one.")
    to: Names = Field(default=(), description="Destinations for messages that name none.")
    address: Text | None = Field(default=None, description="Where they go, instead of the directory's address.")
    refuse: Text | None = Field(default=None, description="They are refused, with this text.")
    cancels: Flag = Field(
        default=False,
        description="They call off what the same source sent before about the same: what has not left of that is"
        " withdrawn, and what has left is followed in order.",
    )
    log: Flag = Field(default=False, description="They are accepted, kept, and go nowhere.")

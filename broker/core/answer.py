"""What a caller is told: the receipt of what is kept, and the answer to a message."""

from __future__ import annotations

from enum import Enum

import msgspec

from broker.core.outcome import Problem


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the sender gets back for a message that is kept."""

    message_id: str  # ours, a UUID
    position: int
    duplicate: bool = False  # this copy was here before; ids are those of the first
    notes: tuple[Problem, ...] = ()  # destinations that cannot be reached, bytes that differ, …


class AnswerKind(Enum):
    ACCEPTED = "accepted"  # custody taken; the result comes otherwise
    TAKEN = "taken"  # the receiver itself took custody and said no more
    DONE = "done"  # processed, nothing to say
    RESPONSE = "response"  # `body` is the response message
    REFUSED = "refused"  # by the receiver or on the way: `status` and `body` or `problem` say why
    KEPT = "kept"  # the wait ended; we hold custody
    WITHDRAWN = "withdrawn"  # the wait ended, and what had not left was withdrawn; `left` says whether something had


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller is told once the message is kept (design: when does `$process-message` answer?)."""

    kind: AnswerKind
    receipt: Receipt
    body: bytes | None = None
    media_type: str | None = None
    status: int | None = None  # of the receiver's refusal, where its protocol has such numbers
    problem: Problem | None = None
    left: bool = False


class Taken(Enum):
    """How the other side took custody."""

    CUSTODY = "custody"  # 202, an empty 200, a confirm: the result comes otherwise, if any
    NOTHING_TO_SAY = "nothing"  # 204: processed, no response wanted

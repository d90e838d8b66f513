"""Why something was refused, and whether the same content may succeed later.

A refusal is an exception at the door; each names a FHIR issue code, the party that failed, and a stable id that a
program may look at while the text stays free to change (spec: security section 7, ecosystem section 3.1).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec


class Who(StrEnum):
    """Who failed."""

    SENDER = "sender"
    BROKER = "broker"
    RECEIVER = "receiver"


class Severity(StrEnum):
    FATAL = "fatal"
    ERROR = "error"
    WARNING = "warning"
    INFORMATION = "information"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One issue of an OperationOutcome."""

    code: str  # FHIR IssueType
    id: str  # ours, stable: "unknown-destination"
    text: str  # what happened, to which thing, and what to do; never clinical content
    severity: Severity = Severity.ERROR
    who: Who = Who.SENDER
    expression: tuple[str, ...] = ()  # FHIRPath of the element
    diagnostics: str | None = None  # for engineers
    at: str | None = None  # endpoint of the broker that says so, where it is one further on


# FHIR's `transient` and what stands below it: "the transaction may be able to be resubmitted".
TRANSIENT = frozenset({"transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"})
STAYS = frozenset({"expired-on-arrival"})  # a timeout, too, and over for good


def passes(problem: Problem) -> bool:
    """Whether the same bytes may be taken later; a channel then says "later" in its own words, else "never"."""
    return problem.code in TRANSIENT and problem.id not in STAYS


class Refusal(Exception):
    """Something is refused at the door. Subclasses say what kind; `problems` say why."""

    code: ClassVar[str] = "processing"
    id: ClassVar[str] = "refused"
    who: ClassVar[Who] = Who.SENDER

    def __init__(
        self,
        text: str,
        *,
        code: str | None = None,
        id: str | None = None,
        who: Who | None = None,
        expression: tuple[str, ...] | str = (),
        diagnostics: str | None = None,
        retry_after: float | None = None,
        also: tuple[Problem, ...] = (),
    ) -> None:
        super().__init__(text)
        self.problem = Problem(
            code=code or self.code,
            id=id or self.id,
            text=text,
            who=who or self.who,
            expression=(expression,) if isinstance(expression, str) else expression,
            diagnostics=diagnostics,
        )
        self.also = also  # warnings and further problems
        self.retry_after = retry_after  # seconds

    @property
    def passes(self) -> bool:
        return passes(self.problem)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (self.problem, *self.also)


class MessageInvalid(Refusal):
    """The content is not a message that we can read: code is structure, required, value or invariant."""

    code, id = "structure", "invalid-message"


class BadRequest(Refusal):
    """What stands around the message (query, headers) is wrong."""

    code, id = "value", "bad-request"


class TooLarge(Refusal):
    code, id = "too-long", "too-large"


class Unsupported(Refusal):
    """A media type, FHIR version, method or feature that is not served here."""

    code, id = "not-supported", "not-supported"


class NotAllowed(Refusal):
    code, id = "forbidden", "not-allowed"


class NoRoute(Refusal):
    """None of the message's destinations can be reached."""

    code, id = "not-found", "unknown-destination"


class NotKnownYet(NoRoute):
    """A source of the directory that may know the destination has never been read: later, please."""

    code, id, who = "transient", "directory-not-known-yet", Who.BROKER


class LoopDetected(Refusal):
    code, id = "business-rule", "loop"


class RefusedByRule(Refusal):
    """A rule of the configuration says no."""

    code, id = "business-rule", "refused-by-rule"


class SubscriptionRefused(Refusal):
    """A Subscription, or what is asked of one, that is not served as it stands (S-8)."""

    code, id = "value", "subscription-refused"


class NotFound(Refusal):
    """A resource, operation or status URL that is not here."""

    code, id = "not-found", "not-found"


class Gone(Refusal):
    code, id = "deleted", "gone"


class Conflict(Refusal):
    """Same identity, other content."""

    code, id = "duplicate", "reused-id"


class Busy(Refusal):
    """Later, please."""

    code, id, who = "throttled", "busy", Who.BROKER


class StoreUnavailable(Refusal):
    code, id, who = "no-store", "store-unavailable", Who.BROKER


class Expired(Refusal):
    code, id = "timeout", "expired"

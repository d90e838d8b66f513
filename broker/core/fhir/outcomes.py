"""OperationOutcomes of the broker, and which HTTP status goes with a refusal (spec: security section 7, promise 8)."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import Resource, write
from broker.core.outcome import (
    BadRequest,
    Busy,
    Conflict,
    Expired,
    Gone,
    LoopDetected,
    MessageInvalid,
    NoRoute,
    NotAllowed,
    NotFound,
    Problem,
    Refusal,
    RefusedByRule,
    Severity,
    StoreUnavailable,
    SubscriptionRefused,
    TooLarge,
    Unsupported,
    Who,
)

ERROR = "urn:x-fhir-broker:error"  # code: the stable id of the problem
FAILED = "urn:x-fhir-broker:failed"  # code: sender, broker or receiver
AT = "urn:x-fhir-broker:at"  # code: endpoint of the broker that speaks
MESSAGE = "urn:x-fhir-broker:message"  # code: our message id

_NOTHING_WRONG: Resource = {"severity": "information", "code": "informational"}  # issue is 1..*


def operation_outcome(problems: Sequence[Problem], *, release: Release) -> Resource:
    return {
        "resourceType": "OperationOutcome",
        "issue": [issue(problem, release=release) for problem in problems] or [_NOTHING_WRONG],
    }


def outcome_bytes(problems: Sequence[Problem], *, format: Format, release: Release) -> bytes:
    return write(operation_outcome(problems, release=release), format)


def issue(problem: Problem, *, release: Release, more: Sequence[Resource] = ()) -> Resource:
    """One problem as an issue; `more` are further codings of its details."""
    codings: list[Resource] = [{"system": ERROR, "code": problem.id}]
    if problem.severity is not Severity.INFORMATION:  # where nothing failed, nobody did
        codings.append({"system": FAILED, "code": problem.who.value})
        if problem.at:
            codings.append({"system": AT, "code": problem.at})
    details: Resource = {"coding": [*codings, *more]}
    if problem.text:
        details["text"] = problem.text
    written: Resource = {"severity": problem.severity.value, "code": problem.code, "details": details}
    if problem.diagnostics:
        written["diagnostics"] = problem.diagnostics
    if problem.expression and release is not Release.DSTU2:  # DSTU2 has `location` (XPath) only
        written["expression"] = list(problem.expression)
    return written


# --- HTTP ---

_BY_ID = {
    "unsupported-media-type": 415,
    "unsupported-fhir-version": 415,
    "unsupported-encoding": 415,
    "unsupported-charset": 415,
    "not-acceptable": 406,
    "method-not-allowed": 405,
    "no-usable-address": 422,  # known, but nothing to connect to
    "directory-not-known-yet": 503,
    "expired-on-arrival": 422,
    "version-changed": 412,
    "too-many-requests": 429,
}

_BY_KIND: dict[type[Refusal], int] = {
    BadRequest: 400,
    TooLarge: 413,
    Unsupported: 400,
    NotAllowed: 403,
    NoRoute: 404,
    LoopDetected: 422,
    RefusedByRule: 422,
    SubscriptionRefused: 422,
    NotFound: 404,
    Gone: 410,
    Conflict: 409,
    Busy: 503,
    StoreUnavailable: 503,
    Expired: 504,
}

_BY_CODE = {
    "structure": 400,
    "invalid": 422,
    "required": 422,
    "value": 422,
    "invariant": 422,
    "security": 403,
    "login": 401,
    "unknown": 401,
    "expired": 401,
    "forbidden": 403,
    "suppressed": 403,
    "processing": 422,
    "not-supported": 415,
    "duplicate": 409,
    "multiple-matches": 422,
    "not-found": 404,
    "deleted": 410,
    "too-long": 413,
    "code-invalid": 422,
    "extension": 422,
    "too-costly": 422,
    "business-rule": 422,
    "conflict": 409,
    "transient": 503,
    "lock-error": 503,
    "no-store": 503,
    "timeout": 504,
    "incomplete": 503,
    "throttled": 503,
}

_NO_CREDENTIALS = {"login", "unknown", "expired"}


def http_status(refusal: Refusal) -> int:
    """The status of a refusal at the door."""
    problem = refusal.problem
    if problem.id in _BY_ID:
        return _BY_ID[problem.id]
    if problem.code == "transient":
        return 503  # the same content may succeed (a digest that does not match, say), and a 4xx would forbid trying
    if isinstance(refusal, NotAllowed) and problem.code in _NO_CREDENTIALS:
        return 401
    if isinstance(refusal, MessageInvalid):
        return 400 if problem.code == "structure" else 422
    for kind in type(refusal).__mro__:
        if kind in _BY_KIND:
            return _BY_KIND[kind]
    return problem_status(problem)


def problem_status(problem: Problem) -> int:
    """The status of a problem that came without one, by its code: a receiver's refusal over another protocol, say."""
    if problem.id in _BY_ID:
        return _BY_ID[problem.id]
    if problem.code in _BY_CODE:
        return _BY_CODE[problem.code]
    return 502 if problem.who is Who.RECEIVER else 500

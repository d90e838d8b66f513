from __future__ import annotations

import pytest
from written import ALL, read, validated, values_of_json, values_of_xml

from broker.core import outcome
from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import http_status, operation_outcome, outcome_bytes, problem_status
from broker.core.outcome import Problem, Refusal, Severity, Who

UNKNOWN = Problem(
    code="not-found",
    id="unknown-destination",
    text="No address is known for urn:oid:1.2.3. Register it in the directory.",
    expression=("Bundle.entry[0].resource.destination[0].endpoint",),
    diagnostics="3 sources asked",
)
LATE = Problem(code="timeout", id="expired", text="late", severity=Severity.WARNING, who=Who.RECEIVER)


@pytest.mark.parametrize("release", ALL)
def test_outcome_is_valid_in_its_release(release: Release) -> None:
    validated(operation_outcome([UNKNOWN, LATE], release=release), release)


@pytest.mark.parametrize("format", Format)
def test_outcome_is_the_same_in_both_formats(format: Format) -> None:
    resource = operation_outcome([UNKNOWN, LATE], release=Release.R4)
    body = outcome_bytes([UNKNOWN, LATE], format=format, release=Release.R4)
    if format is Format.JSON:
        assert read(body, format) == resource
    else:
        assert values_of_xml(body) == values_of_json(resource)


def test_issue_names_the_element_the_stable_id_and_who_failed() -> None:
    """Promise 8, X-60."""
    (issue,) = operation_outcome([UNKNOWN], release=Release.R4)["issue"]
    assert issue == {
        "severity": "error",
        "code": "not-found",
        "details": {
            "coding": [
                {"system": "urn:x-fhir-broker:error", "code": "unknown-destination"},
                {"system": "urn:x-fhir-broker:failed", "code": "sender"},
            ],
            "text": UNKNOWN.text,
        },
        "diagnostics": "3 sources asked",
        "expression": ["Bundle.entry[0].resource.destination[0].endpoint"],
    }


def test_nobody_failed_where_nothing_is_wrong() -> None:
    note = Problem(code="informational", id="seen", text="", severity=Severity.INFORMATION)
    (issue,) = operation_outcome([note], release=Release.R5)["issue"]
    assert issue["details"] == {"coding": [{"system": "urn:x-fhir-broker:error", "code": "seen"}]}


def test_outcome_of_no_problem_still_has_its_issue() -> None:
    assert validated(operation_outcome([], release=Release.R5), Release.R5)["issue"] == [
        {"severity": "information", "code": "informational"}
    ]


def test_dstu2_has_no_expression() -> None:
    (issue,) = operation_outcome([UNKNOWN], release=Release.DSTU2)["issue"]
    assert "expression" not in issue


class _Misfit(Refusal):
    """A kind that the table does not know."""


class _Narrower(outcome.NotFound):
    """A kind derived from one that it knows."""


STATUSES = [
    (outcome.MessageInvalid("x"), 400),
    (outcome.MessageInvalid("x", code="invariant"), 422),
    (outcome.MessageInvalid("x", code="required"), 422),
    (outcome.MessageInvalid("x", code="value"), 422),
    (outcome.BadRequest("x"), 400),
    (outcome.BadRequest("x", code="transient", id="digest-mismatch"), 503),
    (outcome.TooLarge("x"), 413),
    (outcome.Unsupported("x"), 400),
    (outcome.Unsupported("x", id="unsupported-media-type"), 415),
    (outcome.Unsupported("x", id="unsupported-fhir-version"), 415),
    (outcome.Unsupported("x", id="unsupported-encoding"), 415),
    (outcome.Unsupported("x", id="not-acceptable"), 406),
    (outcome.Unsupported("x", id="method-not-allowed"), 405),
    (outcome.NotAllowed("x"), 403),
    (outcome.NotAllowed("x", code="login"), 401),
    (outcome.NotAllowed("x", code="expired"), 401),
    (outcome.NoRoute("x"), 404),
    (outcome.NoRoute("x", id="no-usable-address"), 422),
    (outcome.NotKnownYet("x"), 503),
    (outcome.LoopDetected("x"), 422),
    (outcome.RefusedByRule("x"), 422),
    (outcome.NotFound("x"), 404),
    (_Narrower("x"), 404),
    (outcome.Gone("x"), 410),
    (outcome.Conflict("x"), 409),
    (outcome.Busy("x"), 503),
    (outcome.Busy("x", id="too-many-requests"), 429),
    (outcome.StoreUnavailable("x"), 503),
    (outcome.Expired("x"), 504),
    (outcome.Expired("x", id="expired-on-arrival"), 422),
    (_Misfit("x"), 422),
    (_Misfit("x", code="exception"), 500),
    (_Misfit("x", code="exception", who=Who.RECEIVER), 502),
]


@pytest.mark.parametrize(
    ("refusal", "status"), STATUSES, ids=[f"{type(r).__name__}-{r.problem.id}-{s}" for r, s in STATUSES]
)
def test_each_refusal_has_its_status(refusal: Refusal, status: int) -> None:
    """The table of security section 7."""
    assert http_status(refusal) == status


@pytest.mark.parametrize(
    ("code", "status"),
    [("not-found", 404), ("timeout", 504), ("too-long", 413), ("forbidden", 403), ("no-store", 503)],
)
def test_problem_alone_has_a_status_by_its_code(code: str, status: int) -> None:
    """A-43, the last column."""
    assert problem_status(Problem(code=code, id="x", text="x")) == status


def test_problem_with_a_known_id_has_the_status_of_the_id() -> None:
    assert problem_status(Problem(code="not-found", id="no-usable-address", text="x")) == 422


@pytest.mark.parametrize("kind", [one for one in Refusal.__subclasses__() if one.__module__ == Refusal.__module__])
def test_every_kind_of_refusal_has_a_status_of_its_own_choice(kind: type[Refusal]) -> None:
    assert 400 <= http_status(kind("x")) < 600

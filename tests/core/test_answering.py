"""When a caller is answered, decided from plain values (design section 2)."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from broker.core.answer import AnswerKind, Receipt, Taken
from broker.core.answering import answer_now, caller_waits, how_long, looks_for_response, wants_silence
from broker.core.delivery import Outcome
from broker.core.outcome import Problem
from broker.core.policy import Expects

RECEIPT = Receipt(message_id="m", position=1)
TAKEN, NOTHING = Outcome(taken=Taken.CUSTODY, status=202), Outcome(taken=Taken.NOTHING_TO_SAY, status=204)
PROBLEM = Problem(code="processing", id="no", text="no")
REFUSED = Outcome(problem=PROBLEM, status=422, body=b"{}", media_type="application/fhir+json")


@pytest.mark.parametrize("expects", Expects)
@pytest.mark.parametrize("request_", [None, "always", "on-error", "on-success", "never"])
@pytest.mark.parametrize("is_response", [True, False])
def test_silence_is_wanted_by_responses_by_rules_and_by_senders(
    expects: Expects, request_: str | None, is_response: bool
) -> None:
    """M-34, M-36; the rule goes before the message."""
    wanted = wants_silence(expects=expects, is_response=is_response, response_request=request_)
    by_message = expects is Expects.AUTO and request_ == "never"
    assert wanted is (is_response or expects is Expects.NOTHING or by_message)
    looks = looks_for_response(expects=expects, is_response=is_response, response_request=request_)
    assert looks is (not wanted and expects is not Expects.RECEIPT)


def test_lines_one_to_three_say_who_waits() -> None:
    for flags in itertools.product([True, False], repeat=5):
        asynchronous, silence, asked, demanded, forwards = flags
        for destinations in (1, 2):
            waits = caller_waits(
                asynchronous=asynchronous, silence=silence, asked_to_wait=asked, response_demanded=demanded,
                destinations=destinations, all_store_and_forward=forwards,
            )  # fmt: skip
            by_way = not forwards and destinations == 1
            assert waits is (not asynchronous and not silence and (by_way or asked or demanded))


@pytest.mark.parametrize(
    ("ends", "kind", "listening"),
    [
        ([], None, None),
        ([None], None, None),
        ([TAKEN, None], None, None),
        ([REFUSED, None], None, None),
        ([TAKEN], AnswerKind.TAKEN, None),
        ([NOTHING], AnswerKind.DONE, AnswerKind.DONE),
        ([REFUSED], AnswerKind.REFUSED, AnswerKind.REFUSED),
        ([REFUSED, REFUSED], AnswerKind.REFUSED, AnswerKind.REFUSED),
        ([REFUSED, TAKEN], AnswerKind.TAKEN, None),
        ([REFUSED, NOTHING], AnswerKind.DONE, AnswerKind.DONE),
        ([NOTHING, TAKEN], AnswerKind.TAKEN, None),
    ],
)
def test_ends_of_all_deliveries_make_the_answer(
    ends: list[Outcome | None], kind: AnswerKind | None, listening: AnswerKind | None
) -> None:
    for listens_on, expected in ((False, kind), (True, listening)):
        answer = answer_now(ends, listens_on=listens_on, receipt=RECEIPT)
        assert (answer and answer.kind) == expected
        assert answer is None or answer.receipt is RECEIPT


def test_refusal_is_passed_on_as_the_receiver_said_it() -> None:
    answer = answer_now([REFUSED], listens_on=False, receipt=RECEIPT)
    assert answer is not None
    assert (answer.status, answer.body, answer.media_type, answer.problem) == (
        422, b"{}", "application/fhir+json", PROBLEM,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "left", "kept"),
    [(None, None, 10), (5, None, 5), (90, None, 60), (9, 9.95, 9.95), (None, 30, 30), (None, 3, 3), (90, 80, 60)],
)
def test_caller_is_kept_as_long_as_the_broker_before_has_left_or_as_it_asks(
    asked: float | None, left: float | None, kept: float
) -> None:
    """M-61: whole seconds are for strangers; the rule has the last word on how long."""
    times = [None if value is None else timedelta(seconds=value) for value in (asked, left)]
    waits = how_long(asked=times[0], left=times[1], wait=timedelta(seconds=10), longest=timedelta(seconds=60))
    assert waits == timedelta(seconds=kept)

"""When a caller is answered, and with what (design section 2: when does `$process-message` answer?).

Pure: the flow tells it what has happened to a message's deliveries, it says whether the caller is answered now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from broker.core.answer import Answer, AnswerKind, Receipt, Taken
from broker.core.delivery import Outcome
from broker.core.policy import Expects


def wants_silence(*, expects: Expects, is_response: bool, response_request: str | None) -> bool:
    """Line 2: no answer is expected, so that nobody waits for one (M-34, M-36)."""
    return is_response or expects is Expects.NOTHING or (expects is Expects.AUTO and response_request == "never")


def looks_for_response(*, expects: Expects, is_response: bool, response_request: str | None) -> bool:
    """Whether the message is entered for correlation: a response message may come for it."""
    if expects is Expects.RECEIPT:
        return False
    return not wants_silence(expects=expects, is_response=is_response, response_request=response_request)


def caller_waits(
    *,
    asynchronous: bool,
    silence: bool,
    asked_to_wait: bool,
    response_demanded: bool,
    destinations: int,
    all_store_and_forward: bool,
) -> bool:
    """Lines 1 to 3: whether the caller is kept, or told at once that we hold custody."""
    if asynchronous or silence:
        return False
    if all_store_and_forward or destinations > 1:
        return asked_to_wait or response_demanded
    return True


def how_long(*, asked: timedelta | None, left: timedelta | None, wait: timedelta, longest: timedelta) -> timedelta:
    """How long the caller is kept. What a broker before us has left goes before all else, so that a request over
    several brokers is one wait; it has been cut to whole seconds in `asked`, which is for strangers."""
    if left is not None:
        return min(left, longest)
    return wait if asked is None else min(asked, longest)


def answer_now(ends: Sequence[Outcome | None], *, listens_on: bool, receipt: Receipt) -> Answer | None:
    """Lines 4 and 5, without the response: what the ends of a message's deliveries mean for the caller.

    `ends` has one place a delivery, None while it has not ended. `listens_on`: the caller said `Prefer: wait`, so that
    a receiver's plain acknowledgement is not the answer.
    """
    if any(end is None for end in ends) or not ends:
        return None
    last = [end for end in ends if end is not None]
    refused = [end for end in last if end.problem is not None]
    if len(refused) == len(last):
        end = refused[0]
        return Answer(
            kind=AnswerKind.REFUSED,
            receipt=receipt,
            status=end.status,
            body=end.body,
            media_type=end.media_type,
            problem=end.problem,
        )
    taken = [end for end in last if end.taken is not None]
    if all(end.taken is Taken.NOTHING_TO_SAY for end in taken):
        return Answer(kind=AnswerKind.DONE, receipt=receipt)
    if listens_on:
        return None
    return Answer(kind=AnswerKind.TAKEN, receipt=receipt, status=taken[0].status)

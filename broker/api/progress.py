"""Says how far a message is and what became of each delivery, in a reader's words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.core.addressing import shown
from broker.core.delivery import AnswerState, State
from broker.core.fhir.receipt import Kind, receipt_problem
from broker.core.outcome import Problem, Severity, Who
from broker.store import Delivery


def has_ended(deliveries: Sequence[Delivery], *, answered: bool) -> bool:
    """Whether a poll is told the end: a response is there, or nothing waits and no response is looked for."""
    if answered and not any(map(goes_on, deliveries)):
        return True
    return not any(delivery.state is State.WAITING or delivery.answer is AnswerState.OPEN for delivery in deliveries)


def goes_on(delivery: Delivery) -> bool:
    """Whether it has had a response, and others are looked for."""
    return delivery.answer is AnswerState.OPEN and delivery.answered_by is not None


def progress(deliveries: Sequence[Delivery]) -> str:
    """For `X-Progress`, in less than 100 characters."""
    done = sum(delivery.state is State.DONE for delivery in deliveries)
    failed = sum(is_failure(delivery) for delivery in deliveries)
    parts = [f"{done} of {len(deliveries)} delivered"]
    if failed:
        parts.append(f"{failed} failed")
    if all(delivery.state is not State.WAITING for delivery in deliveries):
        more = any(map(goes_on, deliveries))
        parts.append("answered, waiting for the final response" if more else "waiting for the response")
    elif attempts := max(delivery.attempts for delivery in deliveries if delivery.state is State.WAITING):
        parts.append(f"{attempts} attempt{'s' if attempts > 1 else ''} so far")
    return ", ".join(parts)


def is_failure(delivery: Delivery) -> bool:
    """Dead, withdrawn, or without the answer that was looked for."""
    return delivery.state in (State.DEAD, State.WITHDRAWN) or (
        delivery.state is State.DONE and delivery.answer is AnswerState.MISSING
    )


def failures(deliveries: Sequence[Delivery]) -> list[Problem]:
    return [told(delivery) for delivery in deliveries if is_failure(delivery)]


def told(delivery: Delivery) -> Problem:
    """What there is to say of a delivery."""
    to = _to(delivery)
    if delivery.state is State.WAITING:
        return _information("under-way", f"{to}: on its way, {delivery.attempts} attempts so far")
    if delivery.state is State.DEAD:
        problem = delivery.outcome.problem if delivery.outcome is not None else None
        if problem is None:
            return _failed("given-up", "processing", f"{to}: the delivery was given up")
        return msgspec.structs.replace(problem, text=f"{to}: {problem.text}")
    if delivery.state is State.WITHDRAWN:
        return _failed("withdrawn", "processing", f"{to}: withdrawn, it is not delivered any more", who=Who.SENDER)
    if delivery.state is State.LOGGED:
        return _information("kept", f"{to}: kept, and carried nowhere")
    return _delivered(delivery, to)


def _delivered(delivery: Delivery, to: str) -> Problem:
    if delivery.answer is AnswerState.MISSING and delivery.answered_by is not None:
        text = f"{to}: delivered and answered, but the final response did not come in the time given for it"
        return _failed("no-final-answer", "timeout", text)
    if goes_on(delivery):
        return _information("answered", f"{to}: delivered and answered, further responses are looked for")
    if delivery.answer is AnswerState.MISSING:
        return _failed("no-answer", "timeout", f"{to}: delivered, but no response came in the time given for it")
    if delivery.answer is AnswerState.OPEN:
        return _information("delivered", f"{to}: delivered, its response is looked for")
    if delivery.answer is AnswerState.ANSWERED:
        return _information("answered", f"{to}: delivered and answered")
    return _information("delivered", f"{to}: delivered")


def withdrawal(message_id: str, before: Sequence[Delivery], after: Sequence[Delivery]) -> list[Problem]:
    """What a withdrawal reached, and what had left."""
    waited = {delivery.number for delivery in before if delivery.state is State.WAITING}
    withdrawn = {
        delivery.number for delivery in after if delivery.state is State.WITHDRAWN and delivery.number in waited
    }
    if withdrawn:
        first = receipt_problem(Kind.CANCELLED, message_id)
    else:
        first = _information("not-withdrawn", f"Nothing of message {message_id} could be withdrawn any more.")
    return [first, *(_reached(delivery, delivery.number in withdrawn) for delivery in after)]


def _reached(delivery: Delivery, withdrawn: bool) -> Problem:
    to = _to(delivery)
    if withdrawn:
        return _information("withdrawn", f"{to}: withdrawn, nothing had left")
    if delivery.state is State.WAITING:
        text = f"{to}: an attempt is under way or has left and may have been processed; it is carried on"
        return _information("had-left", text, severity=Severity.WARNING)
    if delivery.state is State.DONE:
        return _information("had-left", f"{to}: it had been delivered", severity=Severity.WARNING)
    return _information("had-ended", f"{to}: it had ended before, undelivered")


def _to(delivery: Delivery) -> str:
    return shown(delivery.destination) if delivery.destination else "the receiver"


def _information(id: str, text: str, *, severity: Severity = Severity.INFORMATION) -> Problem:
    return Problem(code="informational", id=id, text=text, severity=severity, who=Who.BROKER)


def _failed(id: str, code: str, text: str, *, who: Who = Who.RECEIVER) -> Problem:
    return Problem(code=code, id=id, text=text, who=who)

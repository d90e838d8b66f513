"""One attempt: what is sent, and what its end means for the deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from broker.channel import Deferred, Delivered, Refused, Transmission
from broker.core.answer import Taken
from broker.core.delivery import GIVEN_UP, NEXT, AnswerState, Event, Outcome, State, Step
from broker.core.message import Message
from broker.core.outcome import Problem, Who
from broker.core.policy import Order, Policy
from broker.core.retry import next_attempt
from broker.flow.here import Here
from broker.store import Change, Delivery

WAY_BACK = 50  # milliseconds that an answer may take from one broker to the one before it


def timeleft(wait: timedelta) -> int:
    """What the receiver has of a wait, in milliseconds: it answers before we give up, and we before our caller does."""
    return max(int(wait.total_seconds() * 1000) - WAY_BACK, 0)


def transmission(
    message: Message,
    body: bytes,
    deliveries: Sequence[Delivery],
    *,
    here: Here,
    position: int,
    wait_left: timedelta | None,
    listens_on: bool,
    response_url: bool,
) -> Transmission:
    """What goes to the sender: the bytes as they came, and the envelope with our name in `via`."""
    first = deliveries[0]
    lane = first.policy.lane
    envelope = msgspec.structs.replace(
        message.envelope,
        destination=tuple([delivery.destination for delivery in deliveries if delivery.destination]),
        via=(*message.envelope.via, here.endpoint),
        digest=message.digest,
        timeleft=None if wait_left is None else timeleft(min(wait_left, lane.answer)),
    )
    return Transmission(
        message_id=here.ids.of(position),
        body=body,
        media_type=message.media_type,
        address=first.address,
        envelope=envelope,
        connect=lane.connect,
        answer=lane.answer,
        caller_waits=(wait_left is not None or message.listens) and not response_url,
        listens_on=listens_on,
        attempt=first.attempts + 1,
        in_reply_to=message.in_reply_to,
        event=message.header.opaque,
    )


DELIVERED = NEXT[State.WAITING][Event.DELIVERED]  # looked up once: most attempts end there


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt means for one delivery, or for several that end alike."""

    change: Change
    outcome: Outcome | None  # once it has ended
    report: Problem | None = None  # what the source is to be told
    final: bool = True


def delivered(position: int, deliveries: Sequence[Delivery], result: Delivered, step: Step) -> End:
    outcome = Outcome(taken=result.taken, status=result.status)
    return End(
        change=Change(
            position=position,
            numbers=_numbers(deliveries),
            state=DELIVERED,
            step=step,
            address=deliveries[0].address,
            answer=AnswerState.CLOSED if result.taken is Taken.NOTHING_TO_SAY else None,
            outcome=outcome,
            first=_is_first(deliveries),
        ),
        outcome=outcome,
    )


def refused(position: int, deliveries: Sequence[Delivery], result: Refused, step: Step) -> End:
    outcome = Outcome(status=result.status, body=result.body, media_type=result.media_type, problem=result.problem)
    return End(
        change=Change(
            position=position,
            numbers=_numbers(deliveries),
            state=NEXT[State.WAITING][Event.REFUSED],
            step=step,
            address=deliveries[0].address,
            answer=AnswerState.CLOSED,
            outcome=outcome,
            first=_is_first(deliveries),
        ),
        outcome=outcome,
        report=result.problem,
    )


def deferred(
    position: int,
    delivery: Delivery,
    result: Deferred,
    step: Step,
    *,
    now: datetime,
    dice: float,
    lane: str | None = None,
) -> End:
    """Tried again in time, or given up where that would be past the expiry; `lane`: of the peer that is next."""
    due = next_attempt(
        delivery.attempts + 1,
        now=now,
        expiry=delivery.expiry,
        retry=delivery.policy.retry,
        dice=dice,
        asked=result.retry_after,
    )
    if due is None:
        return expired(position, delivery, step, made=delivery.attempts + 1, last=result.note, attempted=True)
    change = Change(
        position=position,
        numbers=(delivery.number,),
        state=NEXT[State.WAITING][Event.DEFERRED],
        step=step,
        due=due,
        address=delivery.address,
        lane=lane,
        first=_is_first((delivery,)),
    )
    return End(change=change, outcome=None)


def expired(
    position: int, delivery: Delivery, step: Step, *, made: int, last: str = "", attempted: bool = False
) -> End:
    """Given up: it is worth nothing any more, or would be by the time it could be tried again."""
    tried = f"after {made} attempt{'s' if made != 1 else ''}" if made else "before it could be tried"
    problem = Problem(
        code="timeout",
        id=GIVEN_UP,
        who=Who.RECEIVER,
        text=f"the delivery was given up {tried}: its time is over"
        + (f"; the last attempt ended with: {last}" if last else "")
        + ". Sending the message again is sensible once the destination can be reached",
    )
    outcome = Outcome(problem=problem)
    change = Change(
        position=position,
        numbers=(delivery.number,),
        state=NEXT[State.WAITING][Event.EXPIRED],
        step=step,
        attempted=attempted,
        answer=AnswerState.CLOSED,
        outcome=outcome,
    )
    return End(change=change, outcome=outcome, report=problem, final=False)


def held(position: int, delivery: Delivery, *, now: datetime, reason: str) -> Change:
    """Its name is suspended, or gone from the directory: that defers, and does not kill (A-22)."""
    again = min(now + max(delivery.policy.retry.first, timedelta(seconds=30)), delivery.expiry)
    return Change(
        position=position,
        numbers=(delivery.number,),
        state=State.WAITING,
        step=Step(at=now, what="held", note=reason, left=False),
        due=again,
        attempted=False,
    )


def moved(position: int, delivery: Delivery, address: str, lane: str, *, now: datetime) -> Change:
    """The directory says another peer now: it goes over to that lane, due at once."""
    return Change(
        position=position,
        numbers=(delivery.number,),
        state=State.WAITING,
        step=Step(at=now, what="address", address=address, left=False),
        due=now,
        address=address,
        lane=lane,
        attempted=False,
    )


def _is_first(deliveries: Sequence[Delivery]) -> bool:
    """Whether nothing was tried before, and nothing waits for its end: the store then need not look first."""
    for delivery in deliveries:
        if delivery.attempts or delivery.steps or delivery.policy.order is not Order.NONE:
            return False
    return True


def _numbers(deliveries: Sequence[Delivery]) -> tuple[int, ...]:
    return tuple([delivery.number for delivery in deliveries])


def wants_bounce(policy: Policy) -> bool:
    return policy.bounce == "always"

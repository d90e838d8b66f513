"""From the decision for a destination to the deliveries that are written down for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from broker.core.addressing import name_key
from broker.core.answering import looks_for_response
from broker.core.delivery import AnswerState, State
from broker.core.fhir.header import Header
from broker.core.message import Message
from broker.core.outcome import NoRoute, Who
from broker.core.policy import Order, Policy
from broker.core.routing import Decision, Route
from broker.core.stream import key_of
from broker.core.turns import within
from broker.plugins import MAILBOX, Channels, is_mailbox
from broker.store import NewDelivery

REMEMBERED = 10_000  # ways; beyond, they are worked out anew


class Planning:
    def __init__(
        self, *, channels: Channels, is_open: Callable[[str, str], bool], wall: Callable[[], datetime]
    ) -> None:
        self._channels = channels
        self._wall = wall  # the machine's clock: that of senders, as far as we can know
        # whether a lane is open for a destination: of several addresses the first that works is taken
        self._is_open = is_open
        self._ways: dict[tuple[str, str], tuple[str, str | None]] = {}  # lane and mailbox by address and destination

    def deliveries(self, route: Route, message: Message, *, now: datetime) -> tuple[Route, tuple[NewDelivery, ...]]:
        """The deliveries of a route; an address that no channel of ours can use refuses its own destination only."""
        planned: list[NewDelivery] = []
        decisions = list(route.decisions)
        for place, decision in enumerate(decisions):
            if decision.problem is not None:
                continue
            try:
                planned += self._for_destination(decision, message, now=now)
            except NoRoute as refusal:
                decisions[place] = msgspec.structs.replace(decision, problem=refusal.problem)
                route = Route.of(tuple(decisions))
        return route, tuple(planned)

    def _for_destination(self, decision: Decision, message: Message, *, now: datetime) -> list[NewDelivery]:
        name = decision.destination or ""
        key = name_key(name) if name else ""
        expects = looks(decision.policy, message.header)
        if decision.log:
            return [self.to("", name, key, decision, message, now=now, state=State.LOGGED, expects=False)]
        if decision.hold or not decision.addresses:
            return [self.to("", name, key, decision, message, now=now, state=State.WAITING, expects=expects)]
        addresses = (self.choose(decision.addresses, key),) if decision.first else decision.addresses
        return [
            # the unit of effect is message and destination; where all addresses of one are served, each is a unit
            self.to(address, name, key if i == 0 else f"{key}\n{address}", decision, message, now=now,
                    state=State.WAITING, expects=expects and i == 0)
            for i, address in enumerate(addresses)
        ]  # fmt: skip

    def choose(self, addresses: Sequence[str], key: str) -> str:
        """The first whose peer is reachable as far as we know; the first of all where none is."""
        usable = [address for address in addresses if self.can_use(address)]
        for address in usable:
            if is_mailbox(address) or self._is_open(self._channels.lane_of(address), key):
                return address
        return (*usable, *addresses)[0]

    def can_use(self, address: str) -> bool:
        """Whether one of the channels that run carries it."""
        try:
            return is_mailbox(address) or bool(self._channels.lane_of(address))
        except ValueError:
            return False

    def share_a_peer(self, one: str, other: str) -> bool:
        try:
            return self._channels.lane_of(one) == self._channels.lane_of(other)
        except ValueError:
            return False

    def to(
        self,
        address: str,
        name: str,
        key: str,
        decision: Decision,
        message: Message,
        *,
        now: datetime,
        state: State,
        expects: bool,
    ) -> NewDelivery:
        policy = decision.policy
        stream = None
        if policy.order is not Order.NONE and state is State.WAITING:
            stream = stream_of(policy, message, key or address)
        lane, mailbox = self._ways.get((address, name)) or self._way(address, name)
        if mailbox is not None:
            state = State.DONE  # the accepting commit is the delivery
        given, wished = message.envelope.expirytime, message.envelope.priority
        if given is not None and (wall := self._wall()) < now:
            given += now - wall  # over only once both clocks say so; ours is ahead (decision 0008)
        give_up = now + policy.retry.give_up
        return NewDelivery(
            destination=name,
            key=key,
            address=address,
            lane=lane,
            state=state,
            due=now + policy.retry.first,
            expiry=min(given, give_up) if given is not None else give_up,
            policy=policy,
            rule=decision.rule.name if decision.rule else "",
            fixed=decision.resolution is None,
            mailbox=mailbox,
            unread_by=now + policy.unread if mailbox is not None else None,
            answer=AnswerState.OPEN if expects else AnswerState.NONE,
            answer_by=now + policy.answer_within if expects else None,
            priority=policy.priority if wished is None else within(wished),
            stream=stream,
        )

    def _way(self, address: str, name: str) -> tuple[str, str | None]:
        """The lane that leads to an address, or the mailbox that it is; remembered, as addresses are few."""
        lane, mailbox = "", mailbox_of(address, name)
        if address and mailbox is None:
            try:
                lane = self._channels.lane_of(address)
            except ValueError as error:
                raise NoRoute(
                    f"the address of the destination cannot be used: {error}", id="no-usable-address", who=Who.BROKER
                ) from error
        if len(self._ways) >= REMEMBERED:
            self._ways.clear()
        self._ways[address, name] = lane, mailbox
        return lane, mailbox


def stream_of(policy: Policy, message: Message, destination: str) -> bytes | None:
    """The stream that a delivery belongs to; `destination` is its key, or its address where the message names none."""
    key = key_of(policy.order, source=message.source, header=message.header, envelope=message.envelope)
    return None if key is None else key.stream(destination)


def is_further(key: str) -> bool:
    """Whether a delivery serves a second or later address of a destination all of whose addresses are served."""
    return "\n" in key and not key.endswith("\nreturn")  # which is one more way back of a response


def mailbox_of(address: str, name: str) -> str | None:
    """The key of the mailbox that an address means; `mailbox:NAME` is NAME's, `mailbox:` the destination's."""
    if not is_mailbox(address):
        return None
    owner = address.removeprefix(MAILBOX) or name
    return name_key(owner) if owner else "|"


def looks(policy: Policy, header: Header) -> bool:
    return looks_for_response(
        expects=policy.sync.expects, is_response=header.is_response, response_request=header.response_request
    )

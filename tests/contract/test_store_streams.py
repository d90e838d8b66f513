"""Order within a stream, as every store keeps it (design promise 4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_values import DAY, NOW, delivery, expecting, mail, new, settlement, step

from broker.core.delivery import GIVEN_UP, AnswerState, Outcome, State
from broker.core.message import Fate
from broker.core.outcome import Problem
from broker.core.policy import Order, Policy
from broker.store import BEHIND, Change, Kept, Place, Released, Settlement, Store

SECOND = timedelta(seconds=1)
STREAM, OTHER = b"s" * 16, b"o" * 16
SKIP, HOLD = Policy(order=Order.SOURCE), Policy(order=Order.SOURCE, on_refused="hold")
GAVE_UP = Outcome(problem=Problem(code="timeout", id=GIVEN_UP, text="its time is over"))


async def keep(store: Store, id: str, *, stream: bytes = STREAM, policy: Policy = SKIP, **more: Any) -> Kept:
    kept = await store.accept(new(id, delivery(stream=stream, policy=policy, **more)))
    assert isinstance(kept, Kept)
    return kept


async def due(store: Store, lane: str = "lane") -> list[int]:
    """What the store would hand out now, with nothing claimed by that for long."""
    claimed = await store.claim(lane, {"urn:d": 100}, NOW, NOW + DAY, NOW + SECOND)
    return [one.position for one in claimed.deliveries]


async def waits(store: Store, position: int) -> bool:
    (one,) = await store.deliveries(position)
    return one.is_behind


async def test_what_must_not_overtake_another_waits_behind_it_though_no_order_was_asked(store: Store) -> None:
    await store.accept(new("1"))
    kept = await store.accept(new("2", delivery(behind=(1, 1))))
    assert isinstance(kept, Kept)
    assert kept.behind == (1,)
    assert (await store.deliveries(2))[0].is_behind
    settled = await store.settle(settlement(1))
    assert settled.released == (("lane", "urn:d"),)
    assert not (await store.deliveries(2))[0].is_behind


async def test_what_has_ended_is_followed_at_once(store: Store) -> None:
    await store.accept(new("1"))
    await store.settle(settlement(1))
    kept = await store.accept(new("2", delivery(behind=(1, 1))))
    assert isinstance(kept, Kept)
    assert kept.behind == ()


async def test_second_of_a_stream_waits_behind_the_first(store: Store) -> None:
    first, second = await keep(store, "1"), await keep(store, "2")
    assert (first.behind, first.ready, second.behind, second.ready) == ((), (1,), (1,), (0,))
    assert await due(store) == [1]
    (waiting,) = await store.deliveries(2)
    assert (waiting.state, waiting.due, waiting.is_behind) == (State.WAITING, BEHIND, True)
    assert await store.places(2) == (Place(number=1, behind=1, ahead=1),)


async def test_streams_do_not_wait_for_each_other_and_what_is_in_none_waits_for_nobody(store: Store) -> None:
    await keep(store, "1")
    assert (await keep(store, "2", stream=OTHER)).behind == ()
    unordered = await store.accept(new("3"))
    assert isinstance(unordered, Kept)
    assert unordered.behind == ()
    assert await due(store) == [1, 2, 3]


@pytest.mark.parametrize("state", [State.DONE, State.DEAD, State.WITHDRAWN])
async def test_end_of_the_first_makes_the_next_due_in_its_lane(store: Store, state: State) -> None:
    await keep(store, "1")
    await keep(store, "2", lane="elsewhere")
    await keep(store, "3")
    settled = await store.settle(settlement(1, state=state))
    assert (settled.changed, settled.released) == (1, (("elsewhere", "urn:d"),))
    assert (await due(store), await due(store, "elsewhere")) == ([], [2])


async def test_attempt_that_is_to_be_made_again_lets_nobody_pass(store: Store) -> None:
    await keep(store, "1")
    await keep(store, "2")
    settled = await store.settle(settlement(1, state=State.WAITING, due=NOW + SECOND))
    assert settled.released == ()
    assert await waits(store, 2)


async def test_withdrawn_first_lets_the_next_go_and_one_in_the_middle_changes_nothing(store: Store) -> None:
    for id in ("1", "2", "3"):
        await keep(store, id)
    assert (await store.withdraw(2, NOW, "why", ())).released == ()
    assert (await store.withdraw(1, NOW, "why", ())).released == (("lane", "urn:d"),)
    assert await due(store) == [3]


async def test_one_that_expires_behind_others_leaves_the_rest_in_place(store: Store) -> None:
    for id in ("1", "2", "3"):
        await keep(store, id)
    assert [one.position for one in await store.expired(NOW + 2 * DAY, 10)] == [1, 2, 3]
    settled = await store.settle(settlement(2, state=State.DEAD, attempted=False))
    assert settled.released == ()
    assert (await store.settle(settlement(1))).released == (("lane", "urn:d"),)
    assert await due(store) == [3]


async def test_answer_that_comes_before_the_attempt_ends_lets_the_next_go(store: Store) -> None:
    asked = await store.accept(new("1", expecting(stream=STREAM, policy=SKIP)))
    assert isinstance(asked, Kept)
    await keep(store, "2")
    answer = await store.accept(new("r", fate=Fate.ANSWER, answers=(1, 1)))
    assert isinstance(answer, Kept)
    assert (answer.answered, answer.released) == (True, (("lane", "urn:d"),))
    assert not await waits(store, 2)


async def test_directory_that_changes_wakes_no_one_out_of_turn(store: Store) -> None:
    await keep(store, "1")
    await keep(store, "2")
    assert await store.wake("lane", "urn:d", NOW, 10) == 2
    assert await store.wake("", "urn:d", NOW, 10) == 0, "what waits behind another is never due by that"
    assert await due(store, "") == [1], "its address is looked up anew"
    assert (await store.settle(settlement(1))).released == (("", "urn:d"),)
    assert await due(store, "") == [2]


async def test_mail_waits_for_what_goes_before_it_by_another_way(store: Store) -> None:
    await keep(store, "1")
    kept = await store.accept(new("2", mail("urn:box", stream=STREAM, policy=SKIP)))
    assert isinstance(kept, Kept)
    assert kept.behind == (1,)
    assert await store.mailboxes() == ()
    assert (await store.settle(settlement(1))).released == (("", "urn:box"),)
    await store.settle(Settlement(change=Change(
        position=2, numbers=(1,), state=State.DONE, step=step(), lane="", mailbox="urn:box", attempted=False,
    )))  # fmt: skip
    assert [one.messages for one in await store.mailboxes()] == [1]


async def test_mail_that_nothing_goes_before_is_there_at_once(store: Store) -> None:
    for id in ("1", "2"):
        kept = await store.accept(new(id, mail("urn:box", stream=STREAM, policy=SKIP)))
        assert isinstance(kept, Kept)
        assert kept.behind == ()
    assert [one.messages for one in await store.mailboxes()] == [2]


async def test_copy_that_adds_a_destination_joins_at_the_end(store: Store) -> None:
    await store.accept(new("1", delivery("urn:a")))
    await keep(store, "2")
    added = await store.add(1, (delivery("urn:b", stream=STREAM, policy=SKIP),))
    assert (added.numbers, added.behind, added.ready) == ((2,), (2,), (0,))
    await keep(store, "3")
    assert (await store.places(1), await store.places(3)) == (
        (Place(number=2, behind=2, ahead=1),),
        (Place(number=1, behind=1, ahead=2),),
    )


# -- what is dead, and what holds


async def test_redriven_joins_at_the_end_and_its_story_says_so(store: Store) -> None:
    for id in ("1", "2", "3"):
        await keep(store, id)
    await store.settle(settlement(1, state=State.DEAD))
    assert await store.redrive(1, 1, NOW, NOW + DAY) == Released(queues=())
    await keep(store, "4")
    (redriven,) = await store.deliveries(1)
    assert (redriven.is_behind, redriven.steps[-1].note) == (True, "it joins its stream at the end")
    order = []
    while now := await due(store):
        order += now
        await store.settle(settlement(now[0]))
    assert order == [2, 3, 1, 4]


async def test_several_redriven_keep_their_order_across_what_comes_later(store: Store) -> None:
    for id in ("1", "2", "3"):
        await keep(store, id)
    for position in (1, 2):
        await store.settle(settlement(position, state=State.DEAD))
    for position in (2, 1):
        await store.redrive(position, 1, NOW, NOW + DAY)
    await keep(store, "4")
    order = []
    while now := await due(store):
        order += now
        await store.settle(settlement(now[0]))
    assert order == [3, 2, 1, 4]


async def test_redriven_alone_is_due_at_once(store: Store) -> None:
    await keep(store, "1")
    await store.settle(settlement(1, state=State.DEAD))
    assert await store.redrive(1, 1, NOW, NOW + DAY) == Released(queues=(("lane", "urn:d"),))
    assert await due(store) == [1]


async def held(store: Store, *ids: str) -> None:
    """A stream whose first is dead and holds the others."""
    for id in ids:
        await keep(store, id, policy=HOLD)
    settled = await store.settle(settlement(1, state=State.DEAD))
    assert settled.released == ()


async def test_dead_letter_holds_its_stream_where_the_rule_says_so(store: Store) -> None:
    await held(store, "1", "2")
    assert (await keep(store, "3", policy=HOLD)).behind == (1,), "also what comes later"
    assert await due(store) == []
    assert await store.places(2) == (Place(number=1, held_by=(1,)),)
    assert await store.places(1) == (Place(number=1, holds=True),)
    (stream,) = await store.streams(10)
    assert (stream.waiting, stream.head, stream.held_by) == (2, (2, 1), ((1, 1, NOW),))
    assert (await store.counts()).held_streams == 1
    assert (await store.counts()).oldest_due is None, "nothing is due before somebody decides"


async def test_held_stream_in_which_nothing_waits_keeps_what_comes_next(store: Store) -> None:
    await held(store, "1")
    assert (await keep(store, "2", policy=HOLD)).behind == (1,)


async def test_resumed_stream_goes_on_without_its_dead_letter(store: Store) -> None:
    await held(store, "1", "2", "3")
    assert await store.resume(1, 1, NOW) == Released(queues=(("lane", "urn:d"),))
    assert await due(store) == [2]
    (dead,) = await store.deliveries(1)
    assert (dead.state, dead.steps[-1].what) == (State.DEAD, "resumed")
    assert await store.resume(1, 1, NOW) is None
    assert await store.resume(2, 1, NOW) is None
    assert (await store.counts()).held_streams == 0


async def test_resumed_stream_goes_on_past_all_that_is_dead_in_it(store: Store) -> None:
    await held(store, "1", "2", "3")
    await store.settle(settlement(2, state=State.DEAD, attempted=False))  # its time was over behind the first
    assert await store.places(3) == (Place(number=1, held_by=(1, 2)),)
    assert await store.resume(2, 1, NOW) == Released(queues=(("lane", "urn:d"),))
    assert await due(store) == [3]


async def test_dropped_dead_letter_lets_its_stream_go_on(store: Store) -> None:
    await held(store, "1", "2")
    assert await store.drop(1, 1, NOW, "by hand") == Released(queues=(("lane", "urn:d"),))
    assert await due(store) == [2]


async def test_redriven_dead_letter_lets_its_stream_go_on_and_joins_at_the_end(store: Store) -> None:
    await held(store, "1", "2")
    assert await store.redrive(1, 1, NOW, NOW + DAY) == Released(queues=(("lane", "urn:d"),))
    assert await due(store) == [2]
    assert (await store.settle(settlement(2))).released == (("lane", "urn:d"),)
    assert await due(store) == [1]


async def test_stream_with_two_dead_letters_waits_for_both(store: Store) -> None:
    await held(store, "1", "2", "3")
    await store.settle(settlement(2, state=State.DEAD, attempted=False))
    assert await store.drop(1, 1, NOW, "by hand") == Released(queues=())
    assert await store.drop(2, 1, NOW, "by hand") == Released(queues=(("lane", "urn:d"),))


async def test_copy_of_what_was_given_up_lets_the_stream_go_on_and_joins_at_the_end(store: Store) -> None:
    for id in ("1", "2"):
        await keep(store, id, policy=HOLD)
    await store.settle(settlement(1, state=State.DEAD, outcome=GAVE_UP))
    revived = await store.add(1, (delivery(stream=STREAM, policy=HOLD),))
    assert (revived.numbers, revived.behind, revived.released) == ((1,), (1,), (("lane", "urn:d"),))
    assert await due(store) == [2]
    assert (await store.deliveries(1))[0].answer is AnswerState.NONE


async def test_long_streams_are_listed_and_short_ones_are_not(store: Store) -> None:
    await keep(store, "1", stream=OTHER)
    for id in ("2", "3", "4"):
        await keep(store, id)
    assert [(one.waiting, one.head, one.held_by) for one in await store.streams(10)] == [(3, (2, 1), ())]


# -- the law


KINDS = st.sampled_from(["keep", "keep", "keep", "deliver", "refuse", "defer", "withdraw", "expire", "redrive", "drop",
                         "resume", "add"])  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(st.tuples(KINDS, st.integers(0, 2), st.integers(0, 30)), min_size=10, max_size=60),
       holds=st.booleans())  # fmt: skip
async def test_whatever_happens_one_of_each_stream_has_its_turn_and_it_is_who_came_first(
    store: Store, events: list[tuple[str, int, int]], holds: bool
) -> None:
    law = Law(store, HOLD if holds else SKIP)
    for what, number, pick in events:
        await law.happens(what, number, pick)
        await law.holds()


Name = tuple[int, int]  # position and number


class Law:
    """What the order must be, kept as plain lists beside the store; positions go on from one example to the next."""

    examples = 0

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store, self.policy = store, policy
        Law.examples += 1
        self.names = [f"{n} of {Law.examples}".encode() for n in range(3)]
        self.lines: list[list[Name]] = [[], [], []]  # those that wait, in their order
        self.dead: list[set[Name]] = [set(), set(), set()]
        self.holders: list[set[Name]] = [set(), set(), set()]
        self.left: set[Name] = set()  # those of which an attempt may have reached the other side
        self.count = 0

    async def happens(self, what: str, n: int, pick: int) -> None:
        line, holders = self.lines[n], self.holders[n]
        if what in ("keep", "add"):
            line.append(await self.keep(n, later=what == "add"))
        elif what in ("deliver", "refuse", "defer") and line and await self.has_its_turn(line[0]):
            await self.attempt(n, what)
        elif what == "withdraw" and line:
            await self.withdraw(line, line[pick % len(line)])
        elif what == "expire" and line:
            await self.die(n, line.pop(pick % len(line)))
        elif what in ("redrive", "drop") and self.dead[n]:
            await self.decide(n, what, sorted(self.dead[n])[pick % len(self.dead[n])])
        elif what == "resume" and holders:
            assert await self.store.resume(*sorted(holders)[pick % len(holders)], NOW) is not None
            holders.clear()

    async def keep(self, n: int, *, later: bool) -> Name:
        """`later`: by a copy that adds a destination."""
        self.count += 1
        planned = delivery(stream=self.names[n], policy=self.policy)
        first = delivery("urn:x", state=State.LOGGED) if later else planned
        kept = await self.store.accept(new(f"{self.names[n]!r}-{self.count}", first))
        assert isinstance(kept, Kept)
        numbers = (await self.store.add(kept.position, (planned,))).numbers if later else kept.numbers
        return kept.position, numbers[0]

    async def withdraw(self, line: list[Name], name: Name) -> None:
        """What may have left is not withdrawn."""
        withdrawn = await self.store.withdraw(name[0], NOW, "why", ())
        assert withdrawn.numbers == (() if name in self.left else name[1:])
        if name not in self.left:
            line.remove(name)

    async def attempt(self, n: int, what: str) -> None:
        self.left.add(self.lines[n][0])
        if what == "defer":
            await self.store.settle(settlement(*self.lines[n][0], state=State.WAITING, due=NOW + SECOND))
            return
        name = self.lines[n].pop(0)
        if what == "deliver":
            await self.store.settle(settlement(*name))
        else:
            await self.die(n, name)

    async def die(self, n: int, name: Name) -> None:
        await self.store.settle(settlement(*name, state=State.DEAD))
        self.dead[n].add(name)
        self.left.add(name)
        if self.policy is HOLD:
            self.holders[n].add(name)

    async def decide(self, n: int, what: str, name: Name) -> None:
        self.dead[n].discard(name)
        self.holders[n].discard(name)
        if what == "drop":
            assert await self.store.drop(*name, NOW, "why") is not None
        else:
            assert await self.store.redrive(*name, NOW, NOW + DAY) is not None
            self.lines[n].append(name)

    async def has_its_turn(self, name: Name) -> bool:
        (one,) = [one for one in await self.store.deliveries(name[0]) if one.number == name[1]]
        assert one.state is State.WAITING
        return not one.is_behind

    async def holds(self) -> None:
        for line, holders in zip(self.lines, self.holders, strict=True):
            ready = [name for name in line if await self.has_its_turn(name)]
            if holders:
                assert ready in ([], line[:1]), "who had its turn when another died goes on; nobody else"
            else:
                assert ready == line[:1]

"""What every store promises (broker.store.Store)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from store_values import DAY, NOW, delivery, expecting, header, mail, new, quoting, settlement

from broker.core.answer import Taken
from broker.core.delivery import AnswerState, Outcome, State
from broker.core.fhir.header import Event, Identifier, Release
from broker.core.hold import Hold
from broker.core.message import Fate
from broker.core.outcome import Problem
from broker.core.policy import Policy
from broker.store import Copy, Filter, Kept, Note, Store

SECOND = timedelta(seconds=1)
SOON = NOW + SECOND


async def accepted(store: Store, *messages: Any) -> list[int]:
    kept = [await store.accept(message) for message in messages]
    assert all(isinstance(one, Kept) for one in kept)
    return [one.position for one in kept]


async def page(store: Store, after: int = 0, limit: int = 100, mailbox: str | None = "urn:box", **wanted: Any) -> Any:
    return await store.read(mailbox, after, limit, Filter(**wanted), False, 1 << 30)


async def positions(store: Store, **wanted: Any) -> list[int]:
    return [entry.position for entry in (await page(store, **wanted)).entries]


# -- accept


async def test_message_comes_back_as_it_was_kept(store: Store) -> None:
    message = new("1", expecting("urn:a"), mail("urn:box"), body=b"\xef\xbb\xbf{ }\n")
    kept = await store.accept(message)
    assert kept == Kept(position=1, numbers=(1, 2))
    stored = await store.stored(1)
    assert stored is not None
    assert (stored.message, stored.accepted, stored.body_kept, stored.answers) == (message.message, NOW, True, None)
    assert await store.body(1) == message.body
    assert [(d.number, d.key, d.state, d.answer, d.policy) for d in await store.deliveries(1)] == [
        (1, "urn:a", State.WAITING, AnswerState.OPEN, message.deliveries[0].policy),
        (2, "urn:box", State.DONE, AnswerState.NONE, message.deliveries[1].policy),
    ]


async def test_what_was_never_kept_is_nowhere(store: Store) -> None:
    assert (await store.stored(1), await store.body(1), await store.deliveries(1)) == (None, None, ())
    assert await store.load((1, 2), 100) == {}


@pytest.mark.parametrize("copies", [2, 40])
async def test_identity_is_claimed_once_however_many_ask_at_once(store: Store, copies: int) -> None:
    results = await asyncio.gather(*(store.accept(new("1", body=b"%d" % n)) for n in range(copies)))
    assert [type(one) for one in results].count(Kept) == 1
    assert {one.position for one in results} == {1}
    assert (await store.counts()).waiting == 1


async def test_identity_is_its_sources(store: Store) -> None:
    assert await accepted(store, new("1", source="urn:a"), new("1", source="urn:b"), new(None), new(None)) == [
        1,
        2,
        3,
        4,
    ]


async def test_exclusive_claim_that_is_lost_uses_nothing_up(store: Store) -> None:
    await accepted(store, new("1", exclusive="only:m"))
    assert await store.accept(new("2", exclusive="only:m")) == Copy(position=1, exclusive=True)
    assert await store.accept(new("1", exclusive="only:m")) == Copy(position=1)
    assert await accepted(store, new("2")) == [2]


async def test_destination_is_delivered_to_once(store: Store) -> None:
    """M-20: the unit of effect is message and destination."""
    await accepted(store, new("1", delivery("urn:a")))
    assert (await store.add(1, (delivery("urn:a"), delivery("urn:b"), mail("urn:box")))).numbers == (0, 2, 3)
    assert (await store.add(1, (delivery("urn:b"),))).numbers == (0,)
    assert await positions(store) == [1]


async def test_withdrawn_delivery_that_is_asked_for_again_waits_again(store: Store) -> None:
    await accepted(store, new("1", expecting("urn:a"), delivery("urn:b")))
    assert (await store.withdraw(1, NOW, "why", {2})).numbers == (1,)
    assert (await store.add(1, (expecting("urn:a", due=SOON + SECOND), delivery("urn:b")))).numbers == (1, 0)
    one, other = await store.deliveries(1)
    assert (one.number, one.state, one.answer, one.due) == (1, State.WAITING, AnswerState.OPEN, SOON + SECOND)
    assert [step.what for step in one.steps] == ["cancelled", "redriven"]
    assert other.state is State.WAITING


@pytest.mark.parametrize(
    "end",
    [
        {"answer": AnswerState.CLOSED, "outcome": Outcome(taken=Taken.NOTHING_TO_SAY)},
        {"state": State.DEAD, "answer": AnswerState.CLOSED, "outcome": Outcome(status=422)},
        {"state": State.WAITING, "due": SOON + SECOND},
        {"state": State.WAITING, "due": SOON + SECOND, "lane": "other", "address": "test://other"},
    ],
)
async def test_end_of_a_first_attempt_says_the_same_whether_it_is_said_to_be_one(
    store: Store, end: dict[str, Any]
) -> None:
    await accepted(store, new("1", expecting("urn:a"), expecting("urn:b")))
    settled = await asyncio.gather(*(store.settle(settlement(1, n, first=n == 1, **end)) for n in (1, 2)))
    assert [one.changed for one in settled] == [1, 1]
    one, other = await store.deliveries(1)
    assert one == msgspec.structs.replace(
        other, number=1, destination="urn:a", key="urn:a", address=end.get("address", "test://urn:a")
    )


async def test_refusal_of_what_has_ended_meanwhile_is_reported_to_nobody(store: Store) -> None:
    await accepted(store, new("1"))
    await store.settle(settlement(1))
    refused = settlement(1, state=State.DEAD, first=True, comes=new(None, mail("urn:s"), reports_on=1))
    settled = await store.settle(refused)
    assert (settled.changed, settled.came) == (0, None)
    assert [one.state for one in await store.deliveries(1)] == [State.DONE]


# -- the schedule


async def test_what_is_handed_out_is_not_due_again_before_its_time(store: Store) -> None:
    await accepted(store, *(new(f"{n}") for n in range(5)))
    claims = await asyncio.gather(*(store.claim("lane", {"urn:d": 2}, SOON, SOON, SOON + DAY) for _ in range(4)))
    handed = [one.position for claim in claims for one in claim.deliveries]
    assert sorted(handed) == [1, 2, 3, 4, 5], "each once, however many ask"
    assert claims[0].next_due == {"urn:d": SOON}
    assert claims[-1].next_due == {"urn:d": SOON + DAY}
    later = await store.claim("lane", {"urn:d": 10}, SOON + DAY, SOON + DAY, SOON + 2 * DAY)
    assert len(later.deliveries) == 5


async def test_only_what_was_never_tried_is_handed_out_before_it_is_due(store: Store) -> None:
    await accepted(store, new("1"), new("2"))
    await store.settle(settlement(1, state=State.WAITING, due=SOON))
    claimed = await store.claim("lane", {"urn:d": 10}, NOW, SOON, SOON + DAY)
    assert [one.position for one in claimed.deliveries] == [2]


async def test_lane_is_asked_for_its_own(store: Store) -> None:
    await accepted(store, new("1"), new("2", delivery(lane="other", due=NOW)), new("3", mail("urn:box")))
    assert [one.position for one in (await store.claim("other", {"urn:d": 10}, NOW, NOW, SOON)).deliveries] == [2]
    lanes = {one.lane: (one.count, one.due) for one in await store.lanes()}
    assert lanes == {"lane": (1, SOON), "other": (1, SOON)}


async def test_destinations_of_a_message_that_share_an_address_are_handed_out_together(store: Store) -> None:
    """M-55: whichever of them is asked for, and nothing else of the message."""
    gate = [delivery(key, address="test://gate") for key in ("urn:a", "urn:b", "urn:c")]
    await accepted(
        store, new("1"), new("2", *gate, delivery("urn:x"), delivery("urn:y", address="test://gate", lane="other"))
    )
    claimed = await store.claim("lane", {"urn:b": 1}, SOON, SOON, SOON + DAY)
    assert sorted((one.position, one.number) for one in claimed.deliveries) == [(2, 1), (2, 2), (2, 3)]
    again = await store.claim("lane", {"urn:a": 9, "urn:x": 9}, SOON, SOON, SOON + DAY)
    assert [one.key for one in again.deliveries] == ["urn:x"]


async def test_each_destination_has_its_share_however_much_waits_for_another(store: Store) -> None:
    await accepted(store, *(new(f"a{n}", delivery("urn:a", due=NOW)) for n in range(50)), new("b", delivery("urn:b")))
    claimed = await store.claim("lane", {"urn:a": 3, "urn:b": 3, "urn:none": 3}, SOON, SOON, SOON + DAY)
    assert [one.key for one in claimed.deliveries] == ["urn:a"] * 3 + ["urn:b"]
    assert claimed.next_due == {"urn:a": NOW, "urn:b": SOON + DAY}


async def test_higher_priority_is_handed_out_first_and_lower_always_has_some_room(store: Store) -> None:
    ranks = (0, 0, 0, 5, 5, 5, 5, 5, 5, 9)
    await accepted(store, *(new(f"{n}", delivery(priority=rank)) for n, rank in enumerate(ranks)))
    first, second = [
        [one.priority for one in (await store.claim("lane", {"urn:d": 5}, SOON, SOON, SOON + DAY)).deliveries]
        for _ in range(2)
    ]
    assert (first, second) == ([9, 5, 5, 5, 0], [5, 5, 5, 0, 0])
    assert (await store.schedule())[0].due == SOON + DAY


async def test_schedule_tells_each_destination_once_with_the_first_of_it(store: Store) -> None:
    """However much waits: lanes and destinations are many or few, not their backlog."""
    await accepted(
        store,
        *(new(f"a{n}", delivery("urn:a", due=SOON + n * SECOND, priority=n % 3)) for n in range(9)),
        new("b", delivery("urn:b", lane="other", due=NOW), delivery("urn:a", lane="other")),
        new("c", delivery("", lane="")), new("box", mail("urn:box")),
    )  # fmt: skip
    await store.settle(settlement(1))
    assert [(one.lane, one.key, one.due) for one in await store.schedule()] == [
        ("", "", SOON), ("lane", "urn:a", SOON + SECOND), ("other", "urn:a", SOON), ("other", "urn:b", NOW),
    ]  # fmt: skip
    assert [(one.lane, one.key, one.name) for one in await store.queued()] == [
        ("lane", "urn:a", "urn:a"), ("other", "urn:a", "urn:a"), ("other", "urn:b", "urn:b"),
    ]  # fmt: skip


async def test_what_is_woken_is_due_now_in_no_lane_and_never_later_than_it_was(store: Store) -> None:
    await accepted(store, new("1"), new("2", delivery(due=NOW - DAY)), new("3", delivery(fixed=True)), new("4"))
    assert await store.wake("lane", "urn:d", NOW, 10, {(4, 1)}) == 2
    rows = [(await store.deliveries(n))[0] for n in (1, 2, 3, 4)]
    assert [(row.lane, row.due) for row in rows] == [
        ("", NOW), ("", NOW - DAY), ("lane", SOON), ("lane", SOON),
    ]  # fmt: skip
    assert await store.wake("", "urn:d", NOW, 10) == 0, "it is due already"


async def test_what_waits_is_woken_piece_by_piece(store: Store) -> None:
    await accepted(store, *(new(f"{n}") for n in range(7)))
    assert [await store.wake("lane", "urn:d", NOW, 3, {(1, 1)}) for _ in range(3)] == [3, 3, 0]
    assert [(one.lane, one.due) for one in await store.schedule()] == [("", NOW), ("lane", SOON)]


# -- holds


async def test_hold_is_kept_until_it_is_resumed(store: Store) -> None:
    planned = Hold(lane="a", reason="moving", begins=SOON, ends=SOON + DAY, ordered=NOW)
    await store.hold_lane(Hold(lane="a", begins=NOW, ordered=NOW))
    await store.hold_lane(planned)
    await store.hold_lane(Hold(lane="b", begins=NOW, ordered=NOW))
    assert await store.holds() == (planned, Hold(lane="b", begins=NOW, ordered=NOW))
    assert [await store.resume_lane(lane) for lane in ("b", "b", "none")] == [True, False, False]
    assert await store.holds() == (planned,)


async def test_what_expired_is_found(store: Store) -> None:
    await accepted(store, new("1", delivery(expiry=SOON)), new("2"))
    assert await store.expired(NOW, 10) == ()
    assert [one.position for one in await store.expired(SOON, 10)] == [1]


# -- the end of an attempt


async def test_end_of_an_attempt_and_what_came_of_it_are_one(store: Store) -> None:
    await accepted(store, new("1", expecting()))
    response = new("r", mail("urn:s"), answers=(1, 1), fate=Fate.ANSWER)
    outcome = Outcome(taken=Taken.CUSTODY, status=200)
    settled = await store.settle(settlement(1, comes=response, outcome=outcome))
    assert (settled.changed, settled.came) == (1, Kept(position=2, numbers=(1,), answered=True))
    (one,) = await store.deliveries(1)
    assert (one.state, one.answer, one.answered_by, one.attempts, one.left, one.ended, one.outcome) == (
        State.DONE, AnswerState.ANSWERED, 2, 1, True, NOW, outcome,
    )  # fmt: skip
    assert [stored.position for stored in await store.answers_to(1)] == [2]
    stored = await store.stored(2)
    assert stored is not None
    assert (stored.answers, stored.message.fate) == ((1, 1), Fate.ANSWER)


async def test_what_has_ended_stays_as_it_is_and_nobody_is_told_twice(store: Store) -> None:
    await accepted(store, new("1"))
    assert (await store.settle(settlement(1))).changed == 1
    again = await store.settle(settlement(1, state=State.DEAD, comes=new(None, mail("urn:s"), reports_on=1)))
    assert (again.changed, again.came) == (0, None)
    assert (await store.deliveries(1))[0].state is State.DONE


async def test_second_answer_is_double_and_first_stays(store: Store) -> None:
    await accepted(store, new("1", expecting()))
    for id in ("r1", "r2"):
        await store.accept(new(id, mail("urn:s"), answers=(1, 1), fate=Fate.ANSWER))
    fates = [stored.message.fate for stored in await store.answers_to(1)]
    assert fates == [Fate.ANSWER, Fate.DOUBLE]
    assert (await store.deliveries(1))[0].answered_by == 2


async def test_response_ends_a_delivery_that_still_waits(store: Store) -> None:
    await accepted(store, new("1", expecting()))
    kept = await store.accept(new("r", mail("urn:s"), answers=(1, 1), fate=Fate.ANSWER))
    assert isinstance(kept, Kept)
    assert kept.answered
    assert (await store.deliveries(1))[0].state is State.DONE
    assert (await store.claim("lane", {"urn:d": 10}, SOON, SOON, SOON)).deliveries == ()


async def test_answers_with_the_same_ids_to_different_requests_are_all_kept(store: Store) -> None:
    await accepted(store, new("1", expecting()), new("2", expecting()))
    came = []
    for position in (1, 2, 2):
        response = new("r", mail("urn:s"), answers=(position, 1), fate=Fate.ANSWER)
        came.append((await store.settle(settlement(position, comes=response))).came)
    assert [type(one) for one in came[:2]] == [Kept, Kept]
    assert [(await store.deliveries(n))[0].answer for n in (1, 2)] == [AnswerState.ANSWERED] * 2


async def test_nothing_to_say_closes_the_open_answer(store: Store) -> None:
    await accepted(store, new("1", expecting(), delivery("urn:x")))
    await store.settle(settlement(1, 1, 2, answer=AnswerState.CLOSED))
    assert [one.answer for one in await store.deliveries(1)] == [AnswerState.CLOSED, AnswerState.NONE]


async def test_delivery_may_go_over_to_another_lane_or_into_a_mailbox(store: Store) -> None:
    await accepted(store, new("1", delivery("URN:box")))
    await store.settle(settlement(1, state=State.WAITING, due=NOW, address="test://new", lane="new", attempted=False))
    (one,) = await store.deliveries(1)
    assert (one.address, one.lane, one.attempts, one.left) == ("test://new", "new", 0, False)
    await store.settle(settlement(1, mailbox="urn:box", address="mailbox:", lane="", attempted=False))
    assert await positions(store) == [1]
    assert [box.endpoint for box in await store.mailboxes()] == ["URN:box"]
    assert await store.unread_mail(NOW + Policy().unread, 10) == (("urn:box", 1),)


# -- withdraw, redrive, drop


async def test_what_has_left_or_is_under_way_is_not_withdrawn(store: Store) -> None:
    await accepted(store, new("1", *(expecting(f"urn:{n}") for n in range(4))))
    await store.settle(settlement(1, 1, state=State.WAITING, due=NOW))
    await store.settle(settlement(1, 2))
    assert (await store.withdraw(1, NOW, "why", {3})).numbers == (4,)
    assert [one.state for one in await store.deliveries(1)] == [
        State.WAITING, State.DONE, State.WAITING, State.WITHDRAWN,
    ]  # fmt: skip
    last = (await store.deliveries(1))[3]
    assert (last.answer, last.steps[-1].note) == (AnswerState.CLOSED, "why")


async def test_dead_letter_is_listed_redriven_and_dropped(store: Store) -> None:
    await accepted(store, new("1", expecting(lane="a")), new("2"), new("3"))
    for position in (1, 3):
        await store.settle(settlement(position, state=State.DEAD, answer=AnswerState.CLOSED))
    assert [letter.stored.position for letter in await store.dead(10, 0)] == [1, 3]
    assert [letter.stored.position for letter in await store.dead(10, 1)] == [3]
    assert (await store.counts()).dead == 2
    assert await store.redrive(1, 1, NOW + DAY, NOW + 2 * DAY)
    (one,) = await store.deliveries(1)
    assert (one.state, one.due, one.expiry, one.ended, one.outcome) == (
        State.WAITING,
        NOW + DAY,
        NOW + 2 * DAY,
        None,
        None,
    )
    assert (one.answer, one.answer_by) == (AnswerState.OPEN, NOW + 2 * DAY)
    assert await store.drop(3, 1, NOW, "enough")
    assert await store.dead(10, 0) == ()
    assert [await store.redrive(n, 1, NOW, NOW) for n in (1, 2, 3, 4)] == [None] * 4
    assert [await store.drop(n, 1, NOW, "") for n in (1, 2, 3, 4)] == [None] * 4


async def test_withdrawal_for_good_is_reported_and_no_copy_asks_for_it_anew(store: Store) -> None:
    await accepted(store, new("1", expecting(), expecting(key="urn:e")))
    outcome = Outcome(problem=Problem(code="processing", id="cancelled", text="no"))
    report = new(None, mail("urn:s"), reports_on=1, fate=Fate.REPORT)
    done = await store.withdraw(1, NOW, "why", {2}, outcome, report)
    assert (done.numbers, isinstance(done.came, Kept)) == ((1,), True)
    assert (await store.deliveries(1))[0].outcome == outcome
    assert (await store.add(1, (expecting(),))).numbers == (0,)
    again = await store.withdraw(1, NOW, "why", {2}, outcome, report)
    assert (again.numbers, again.came) == ((), None)


# -- answers


async def test_missing_answer_is_found_once_its_delivery_has_ended(store: Store) -> None:
    await accepted(store, new("1", expecting()), new("2", expecting()), new("3"))
    await store.settle(settlement(1))
    assert await store.unanswered(NOW, 10) == ()
    assert [one.position for one in await store.unanswered(NOW + DAY, 10)] == [1]
    report = new(None, mail("urn:s"), reports_on=1, fate=Fate.REPORT)
    first = await store.missing(1, 1, NOW, report)
    assert (first.changed, isinstance(first.came, Kept)) == (1, True)
    again = await store.missing(1, 1, NOW, report)
    assert (again.changed, again.came) == (0, None)
    assert await store.unanswered(NOW + DAY, 10) == ()
    assert (await store.deliveries(1))[0].answer is AnswerState.MISSING


async def test_response_that_is_not_final_leaves_the_answer_open(store: Store) -> None:
    """W-9: also where it comes with the end of the attempt, or before it."""
    await accepted(store, new("1", expecting()), new("2", expecting()))
    inside = new("r1", answers=(1, 1), fate=Fate.ANSWER, final=False)
    settled = await store.settle(settlement(1, comes=inside))
    before = await store.accept(new("r2", answers=(2, 1), fate=Fate.ANSWER, final=False))
    assert isinstance(settled.came, Kept)
    assert isinstance(before, Kept)
    assert (settled.came.answered, before.answered) == (True, True)
    for position, latest in ((1, settled.came.position), (2, before.position)):
        (one,) = await store.deliveries(position)
        assert (one.state, one.answer, one.answered_by) == (State.DONE, AnswerState.OPEN, latest)
    assert [one.position for one in await store.unanswered(NOW + DAY, 10)] == [1, 2]
    last = await store.accept(new("r3", answers=(1, 1), fate=Fate.ANSWER))
    assert isinstance(last, Kept)
    (one,) = await store.deliveries(1)
    assert (one.answer, one.answered_by) == (AnswerState.ANSWERED, last.position)
    after = await store.accept(new("r4", answers=(1, 1), fate=Fate.ANSWER, final=False))
    assert isinstance(after, Kept)
    assert not after.answered


async def test_open_answer_may_be_closed_in_another_way_than_missing(store: Store) -> None:
    await accepted(store, new("1", expecting()))
    await store.settle(settlement(1))
    await store.missing(1, 1, NOW, None, AnswerState.CLOSED)
    assert (await store.deliveries(1))[0].answer is AnswerState.CLOSED
    assert await store.unanswered(NOW + DAY, 10) == ()


@pytest.mark.parametrize("id", ["m", "urn:uuid:m", "b"])
async def test_messages_that_may_be_quoted_by_an_id_come_newest_first(store: Store, id: str) -> None:
    await accepted(store, *(new(f"bundle:{n}", expecting(), quotes=("m", "b"), source=f"urn:{n}") for n in range(3)))
    found = await store.quoted((id,), 2)
    assert [one.stored.position for one in found] == [3, 2]
    assert [one.deliveries[0].answer for one in found] == [AnswerState.OPEN] * 2
    assert await store.quoted(("unheard-of",), 2) == ()


# -- mailboxes


async def fill(store: Store, count: int = 5) -> None:
    await accepted(store, *(new(f"{n}", mail("urn:box"), body=b"%d" % n) for n in range(count)))


async def test_page_is_oldest_first_and_says_where_the_next_one_starts(store: Store) -> None:
    await fill(store)
    first = await page(store, 0, 2)
    assert ([one.position for one in first.entries], first.reached, first.more) == ([1, 2], 2, True)
    last = await page(store, 2, 3)
    assert ([one.body for one in last.entries], last.reached, last.more) == ([b"2", b"3", b"4"], 5, False)
    end = await page(store, 5)
    assert (end.entries, end.reached, end.more, end.first_left) == ((), 5, False, None)


async def test_page_may_be_newest_first(store: Store) -> None:
    await fill(store)
    first = await store.read("urn:box", 0, 2, Filter(), True, 1 << 30)
    assert ([one.position for one in first.entries], first.more) == ([5, 4], True)
    then = await store.read("urn:box", first.reached, 9, Filter(), True, 1 << 30)
    assert [one.position for one in then.entries] == [3, 2, 1]


async def test_page_holds_no_more_bytes_than_asked_but_one_message(store: Store) -> None:
    await accepted(store, *(new(f"{n}", mail("urn:box"), body=bytes(1000)) for n in range(3)))
    read = await store.read("urn:box", 0, 10, Filter(), False, 1500)
    assert (len(read.entries), read.more, read.reached) == (1, True, 1)
    assert len((await store.read("urn:box", 0, 10, Filter(), False, 10)).entries) == 1


async def test_mailbox_holds_its_own_and_all_of_them_together_everything(store: Store) -> None:
    await accepted(store, new("1", mail("urn:box")), new("2", mail("urn:other")), new("3"))
    assert await positions(store) == [1]
    assert await positions(store, mailbox="urn:other") == [2]
    assert await positions(store, mailbox=None) == [1, 2]
    assert await positions(store, mailbox="urn:none") == []
    assert [await store.count(name, Filter()) for name in ("urn:box", None, "urn:none")] == [1, 2, 0]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"event": ("sick",)}, [1, 3]),
        ({"event": ("http://e|sick",)}, [1]),
        ({"event": ("s%k",)}, []),
        ({"event": ("sick", "well")}, [1, 2, 3]),
        ({"source": ("urn:s",)}, [1, 2]),
        ({"source": ("urn:x", "urn:s")}, [1, 2, 3]),
        ({"response_missing": True}, [1, 3]),
        ({"response_missing": False}, [2]),
        ({"response_id": ("q",)}, [2]),
        ({"response_id": ("other",)}, []),
        ({"response_code": ("fatal-error",)}, [2]),
        ({"response_code": ("ok",)}, []),
        ({"identifier": ("urn:i|1",)}, [3]),
        ({"identifier": ("1",)}, [3]),
        ({"identifier": ("2",)}, []),
        ({"since": NOW}, [1, 2, 3]),
        ({"since": SOON}, []),
        ({"until": NOW}, []),
        ({"until": SOON}, [1, 2, 3]),
        ({"event": ("sick",), "source": ("urn:s",), "response_missing": True, "since": NOW}, [1]),
    ],
)
async def test_reader_sees_what_it_wants(store: Store, wanted: dict[str, Any], found: list[int]) -> None:
    answer = header(event=Event("http://e", "well"), response=quoting("q", "fatal-error"))
    other = header(
        release=Release.R5, event=Event("http://f", "sick"), bundle_identifier=Identifier("urn:i", "1"), source="urn:x"
    )
    await accepted(
        store,
        new("1", mail("urn:box")),
        new("2", mail("urn:box"), about=answer),
        new("identifier:urn:i|1", mail("urn:box"), about=other, source="urn:x"),
    )
    assert await positions(store, **wanted) == found
    assert await store.count("urn:box", Filter(**wanted)) == len(found)


async def test_who_read_first_is_remembered(store: Store) -> None:
    await fill(store, 3)
    await store.mark_read("urn:box", (1, 2), "first", NOW)
    await store.mark_read("urn:box", (2, 3, 99), "second", SOON)
    await store.mark_read("urn:none", (3,), "third", SOON)
    assert [await store.mail_of(n) for n in (1, 2, 3)] == [
        (("urn:box", NOW, "first"),), (("urn:box", NOW, "first"),), (("urn:box", SOON, "second"),),
    ]  # fmt: skip
    (box,) = await store.mailboxes()
    assert (box.endpoint, box.messages, box.unread, box.last) == ("urn:box", 3, 0, 3)


async def test_acknowledging_counts_as_reading_and_is_noted(store: Store) -> None:
    await accepted(store, new("1", mail("urn:box", unread_by=SOON)), new("2"))
    assert await store.acknowledge(1, "reader", NOW)
    assert not await store.acknowledge(2, "reader", NOW), "it is in no mailbox"
    assert await store.mail_of(1) == (("urn:box", NOW, "reader"),)
    assert await store.notes(1) == (Note(at=NOW, what="acknowledged", who="reader"),)
    assert await store.unread_mail(SOON, 10) == ()


async def test_unread_mail_is_found_and_reported_once(store: Store) -> None:
    await accepted(store, *(new(f"{n}", mail("urn:box", unread_by=SOON)) for n in range(3)))
    await store.mark_read("urn:box", (2,), "reader", NOW)
    assert await store.unread_mail(NOW, 10) == ()
    assert await store.unread_mail(SOON, 10) == (("urn:box", 1), ("urn:box", 3))
    report = new(None, mail("urn:s"), reports_on=1, fate=Fate.REPORT)
    results = [await store.unread("urn:box", 1, report) for _ in range(2)]
    assert [(one.changed, one.came is not None) for one in results] == [(1, True), (0, False)]
    assert await store.unread_mail(SOON, 10) == (("urn:box", 3),)
    assert await positions(store) == [1, 2, 3], "it stays"


# -- numbers


async def test_counts_say_what_there_is(store: Store) -> None:
    await accepted(store, new("1", expecting()), new("2"), new("3", mail("urn:box")))
    await store.settle(settlement(2, state=State.DEAD))
    counts = await store.counts()
    assert (counts.messages, counts.waiting, counts.dead, counts.open_answers, counts.oldest_due) == (3, 1, 1, 1, SOON)


async def test_notes_tell_a_message_story_in_order(store: Store) -> None:
    await accepted(store, new("1"))
    notes = tuple(Note(at=NOW, what=f"{n}", text="t", who="w") for n in range(3))
    for note in notes:
        await store.note(1, note)
    assert await store.notes(1) == notes
    assert await store.notes(2) == ()

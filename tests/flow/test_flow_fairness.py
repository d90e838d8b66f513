"""Promise 9 behind one gateway: destinations of a lane take turns, and one's trouble is its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from flow_post import ACCEPTED, SENDER, A, B, C, Opened, Post, message, policy

from broker.channel import Deferred, Transmission
from broker.core.delivery import State
from broker.core.envelope import Envelope
from broker.core.policy import Match, Policy, Rule
from broker.flow import lane as lanes
from broker.flow import ready, workers

GATE = {A: "test://gate/a", B: "test://gate/b", C: "test://gate/c", SENDER: "mailbox:"}
LANE = "test://gate"
BUSY = Deferred(note="503", status=503, of_peer=True)
DOWN = Deferred(note="refused connection", of_peer=True, left=False)
SILENT = Deferred(note="no answer", of_peer=True)


async def gateway(opened: Opened, **lane: object) -> Post:
    return await opened(endpoints=GATE, defaults=policy(lane=lane))


async def sends(post: Post, to: str, count: int, begin: int = 0, **more: object) -> None:
    await asyncio.gather(*(
        post.send(message(f"{to}b{n}", f"{to}m{n}", to=(to,)), asynchronous=True, **more)
        for n in range(begin, begin + count)
    ))  # fmt: skip
    await post.rest()


def order(post: Post) -> str:
    """The last letters of the addresses, as they were sent to."""
    return "".join(one.address[-1] for one in post.script.sent)


def count(post: Post) -> Counter[str]:
    return Counter(order(post))


# -- turns


@pytest.mark.parametrize(("concurrent", "most"), [(1, 1), (2, 2), (4, 3), (8, 6), (16, 12)])
async def test_slow_destination_has_three_quarters_of_a_lane_at_most(
    opened: Opened, concurrent: int, most: int
) -> None:
    post = await gateway(opened, concurrent=concurrent)
    post.script.holds("test://gate/a")
    await sends(post, A, 40)
    assert post.script.under_way["test://gate/a"] == most
    await sends(post, B, 20)
    assert count(post)["b"] == (20 if concurrent >= 4 else 0)
    post.script.accepts_all()
    await post.rest()
    assert (count(post)["a"], count(post)["b"]) == (40, 20)


async def test_two_slow_destinations_leave_room_for_a_third(opened: Opened) -> None:
    post = await gateway(opened, concurrent=16)
    for letter in "ab":
        post.script.holds(f"test://gate/{letter}")
    await sends(post, A, 40)
    await sends(post, B, 40)
    assert sum(post.script.under_way.values()) < 16
    await sends(post, C, 20)
    assert count(post)["c"] == 20


async def test_destinations_that_wait_take_turns(opened: Opened) -> None:
    post = await gateway(opened, concurrent=1)
    post.script.holds("test://gate/a")
    await sends(post, A, 6)
    await sends(post, B, 3)
    post.script.accepts_all()
    await post.rest()
    assert order(post) == "aabababaa"[:9]


async def test_place_that_becomes_free_is_used_though_nobody_new_comes(opened: Opened) -> None:
    post = await gateway(opened, concurrent=4)
    post.script.holds("test://gate/a")
    await sends(post, A, 9)
    for done in range(1, 7):
        post.script.held.pop(0).set_result(ACCEPTED)
        await post.rest()
        assert (post.script.under_way["test://gate/a"], len(post.script.sent)) == (3, 3 + done)


async def test_workers_that_have_gone_home_are_called_again(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE", 0)
    post = await gateway(opened, concurrent=8)
    post.script.holds("test://gate/a")
    await sends(post, A, 20)
    lane = post.delivering.lanes[LANE]
    await post.rest()
    assert lane.workers.count == 6
    await sends(post, B, 2)
    assert count(post)["b"] == 2


# -- the backlog of one


async def test_newest_message_goes_at_once_whatever_waits_for_another(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ready, lanes):
        monkeypatch.setattr(module, "READY", 32)
    post = await gateway(opened, concurrent=4)
    post.script.holds("test://gate/a")
    await sends(post, A, 300)
    lane = post.delivering.lanes[LANE]
    assert lane.waiting <= 16
    await sends(post, B, 5)
    assert count(post)["b"] == 5
    await post.later(minutes=2)
    assert lane.waiting <= 16, "memory holds a part, the store remembers"


async def test_backlogs_of_two_in_the_store_are_carried_side_by_side(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ready, lanes):
        monkeypatch.setattr(module, "READY", 32)
    post = await gateway(opened, concurrent=4)
    post.script.says("test://gate/a", DOWN)
    post.script.says("test://gate/b", DOWN)
    await sends(post, A, 300)
    await sends(post, B, 300)
    post.script.sent.clear()
    post.script.says("test://gate/a", ACCEPTED)
    post.script.says("test://gate/b", ACCEPTED)
    for _ in range(8):
        await post.later(seconds=31)
    assert count(post) == {"a": 300, "b": 300}
    assert len({one.message_id for one in post.script.sent}) == 600
    first = Counter(order(post)[:200])
    assert min(first.values()) > 50, f"neither waits for the other: {first}"
    assert not post.delivering.lanes[LANE].known


# -- one destination's trouble


@pytest.mark.parametrize("trouble", [BUSY, SILENT])
async def test_trouble_of_one_destination_leaves_it_alone_and_nobody_else(opened: Opened, trouble: Deferred) -> None:
    post = await gateway(opened, concurrent=4, open_after=3)
    post.script.says("test://gate/a", trouble)
    await sends(post, A, 20)
    tried = count(post)["a"]
    assert 3 <= tried <= 6, "what was under way when the third came back"
    await sends(post, B, 20)
    assert count(post)["b"] == 20
    lane = post.delivering.lanes[LANE]
    assert lane.is_open
    assert [(key, note) for key, _, note in lane.left_alone] == [(A, trouble.note)]
    for probe in range(1, 4):
        await post.later(seconds=31)
        assert count(post)["a"] == tried + probe, "one probe each time, and nothing beside it"
    post.script.says("test://gate/a", ACCEPTED)
    for _ in range(3):
        await post.later(seconds=61)
    assert len([one for one in await post.messages() if (await post.one(one.position)).state is State.DONE]) == 40
    assert lane.left_alone == ()


async def test_lane_closes_when_everybody_who_was_tried_is_in_trouble_and_probes_take_turns(opened: Opened) -> None:
    post = await gateway(opened, concurrent=1, open_after=3)
    for letter in "abc":
        post.script.says(f"test://gate/{letter}", BUSY)
    for to in (A, B, C):
        await sends(post, to, 5)
    lane = post.delivering.lanes[LANE]
    assert not lane.is_open
    before = len(post.script.sent)
    for _ in range(6):
        await post.later(seconds=31)
    assert sorted(order(post)[before : before + 3]) == ["a", "b", "c"], "one sick one does not hold it for the others"
    assert len(post.script.sent) == before + 6
    post.script.accepts_all()
    await post.later(seconds=31)
    assert lane.is_open
    for _ in range(3):
        await post.later(seconds=61)
    assert all([(await post.one(one.position)).state is State.DONE for one in await post.messages()])


async def test_destination_that_had_no_trouble_opens_a_lane_that_others_closed(opened: Opened) -> None:
    post = await gateway(opened, concurrent=1, open_after=3)
    post.script.says("test://gate/a", BUSY)
    post.script.says("test://gate/b", BUSY)
    await sends(post, A, 2)
    await sends(post, B, 2)
    lane = post.delivering.lanes[LANE]
    assert not lane.is_open
    await sends(post, C, 5)
    assert count(post)["c"] == 5
    assert lane.is_open


async def test_lane_that_cannot_be_connected_to_is_closed_for_all(opened: Opened) -> None:
    post = await gateway(opened, concurrent=1, open_after=3)
    for letter in "abc":
        post.script.says(f"test://gate/{letter}", DOWN)
    await sends(post, A, 5)
    await sends(post, B, 5)
    assert order(post) == "aaa"
    for _ in range(2):
        await post.later(seconds=31)
    assert sorted(order(post)[3:]) == ["a", "b"]


async def test_peers_word_on_when_to_come_again_is_for_all_of_a_destination(opened: Opened) -> None:
    post = await gateway(opened, concurrent=1)
    later = Deferred(note="429", status=429, of_peer=True, retry_after=timedelta(seconds=50))
    post.script.says("test://gate/a", later, ACCEPTED)
    await sends(post, A, 3)
    assert order(post) == "a"
    await sends(post, B, 1)
    await post.later(seconds=49)
    assert order(post) == "ab"
    await post.later(seconds=2)
    await post.later(seconds=11)
    assert order(post) == "abaaa"


async def test_next_address_is_taken_when_the_destination_is_left_alone_at_the_first(opened: Opened) -> None:
    endpoints = {**GATE, A: {"first": ["test://gate/a", "test://b/in"]}}
    post = await opened(endpoints=endpoints, defaults=policy(lane={"open_after": 1}))
    post.script.says("test://gate/a", BUSY)
    await sends(post, A, 1)
    assert post.delivering.lanes[LANE].is_open
    await sends(post, A, 1, begin=1)
    assert [one.address for one in post.script.sent] == ["test://gate/a", "test://b/in"]


async def test_new_message_is_the_probe_once_the_time_is_over(opened: Opened) -> None:
    post = await opened(
        endpoints=GATE, defaults=policy(lane={"open_after": 1}, retry={"give_up": timedelta(seconds=5)})
    )
    post.script.says("test://gate/a", BUSY, DOWN, ACCEPTED)
    await sends(post, A, 1)
    for tried in (1, 2):
        await post.later(seconds=29)
        await post.later(seconds=2)
        assert len(post.script.sent) == tried, "nothing waits that could be tried"
        await sends(post, A, 1, begin=tried)
        assert len(post.script.sent) == tried + 1, "what comes then goes at once"
    assert post.delivering.is_open(LANE, A)


async def test_destination_whose_address_is_corrected_is_not_left_alone_for_the_old_one(opened: Opened) -> None:
    post = await gateway(opened, concurrent=1, open_after=1)
    post.script.says("test://gate/a", BUSY)
    post.script.says("test://gate/b", BUSY)
    await sends(post, A, 3)
    await sends(post, B, 3)
    assert not post.delivering.lanes[LANE].is_open
    await post.moves({**GATE, A: "test://gate/c"})
    assert count(post)["c"] == 3
    assert post.delivering.lanes[LANE].is_open


async def test_destinations_that_share_an_address_leave_together_whoever_is_due_first(opened: Opened) -> None:
    """M-55."""
    endpoints = {A: "test://gate/in", B: "test://gate/in", SENDER: "mailbox:"}
    post = await opened(endpoints=endpoints, defaults=policy(lane={"open_after": 1}))
    post.script.says("test://gate/in", BUSY, BUSY, ACCEPTED)
    await post.send(message(to=(A, B)), asynchronous=True)
    for _ in range(4):
        await post.later(seconds=31)
    assert [one.envelope.destination for one in post.script.sent] == [(A, B)] * 3
    assert [one.state for one in await post.of()] == [State.DONE] * 2


async def test_idle_destinations_are_forgotten(opened: Opened) -> None:
    endpoints = {SENDER: "mailbox:"} | {f"urn:oid:3.{n}": f"test://gate/{n}" for n in range(1000)}
    post = await opened(endpoints=endpoints)
    for n in range(1000):
        await post.send(message(f"b{n}", f"m{n}", to=(f"urn:oid:3.{n}",)), asynchronous=True)
        if n % 50 == 0:
            await post.rest()
    await post.rest()
    assert len(post.script.sent) == 1000
    assert len(list(post.delivering.lanes[LANE]._agenda)) < 400


# -- priority


def urgent(priority: int) -> Policy:
    return policy(priority=priority, lane={"concurrent": 1})


async def held(opened: Opened, **more: object) -> Post:
    """A lane whose only place is taken, so that what comes now waits."""
    rule = Rule(name="urgent", match=Match(event=("alarm",)), policy=urgent(5))
    post = await opened(endpoints=GATE, defaults=policy(lane={"concurrent": 1}), rules=[rule], **more)
    post.script.holds("test://gate/a")
    await post.send(message(), asynchronous=True)
    await post.rest()
    return post


async def says(post: Post, number: int, event: str, to: str = B, **more: object) -> None:
    await post.send(message(f"b{event}{number}", f"m{event}{number}", to=(to,), event=event), asynchronous=True, **more)


def events(post: Post) -> str:
    return "".join("u" if "alarm" in str(one.body) else "o" for one in post.script.sent)


async def test_higher_priority_goes_first_and_never_makes_the_lower_wait_for_ever(opened: Opened) -> None:
    post = await held(opened)
    for number in range(4):
        await says(post, number, "sick-leave")
    for number in range(10):
        await says(post, number, "alarm", to=C if number % 2 else B)
    await post.rest()
    post.script.accepts_all()
    await post.rest()
    assert events(post) == "o" + "uuuuo" + "uuuuo" + "uu" + "oo"


async def test_higher_priority_goes_first_out_of_the_store_too(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ready, lanes):
        monkeypatch.setattr(module, "READY", 16)
    post = await held(opened)
    for number in range(60):
        await says(post, number, "sick-leave")
    for number in range(20):
        await says(post, number, "alarm")
    await post.rest()
    post.script.accepts_all()
    for _ in range(3):
        await post.later(seconds=2)
    assert len(post.script.sent) == 81
    assert events(post)[:40].count("u") >= 16


async def test_priority_of_an_envelope_is_honoured_from_those_who_may_steer(opened: Opened) -> None:
    """Promise 6."""
    sent: list[list[str]] = []
    for parties in (False, True):
        post = await held(opened, parties=parties, brokers=frozenset({"national"}))
        for number, priority in enumerate((None, 3, 200)):
            envelope = Envelope(priority=priority)
            await says(post, number, "sick-leave", envelope=envelope, party="stranger" if parties else None)
        await post.rest()
        post.script.accepts_all()
        await post.rest()
        sent.append([one.envelope.id[-1] for one in post.script.sent[1:] if one.envelope.id])
        await post.stop()
        post.path.unlink()
    assert sent == [["2", "1", "0"], ["0", "1", "2"]]


async def test_priority_stays_with_a_delivery_that_is_tried_again(opened: Opened) -> None:
    post = await held(opened)
    post.script.says("test://gate/b", Deferred(note="500", status=500), ACCEPTED)
    await says(post, 1, "alarm")
    post.script.let_go()
    await post.rest()
    assert (await post.one(2)).priority == 5
    assert [
        one.priority for one in (await post.store.claim(LANE, {B: 5}, *[post.now + timedelta(days=1)] * 3)).deliveries
    ] == [5]


async def test_what_was_sent_says_nothing_of_turns(opened: Opened) -> None:
    """The priority of a rule is ours; the envelope that goes on is the sender's."""
    post = await held(opened)
    await says(post, 1, "alarm", envelope=Envelope(priority=7))
    post.script.accepts_all()
    await post.rest()
    last: Transmission = post.script.sent[-1]
    assert last.envelope.priority == 7

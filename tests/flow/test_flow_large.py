"""Large bodies that are sent: how much of them is in memory at once, and that small ones do not wait for their room."""

from __future__ import annotations

import pytest
from flow_post import B, Opened, message, policy
from hypothesis import given
from hypothesis import strategies as st

from broker.core.delivery import State
from broker.flow.deliver import LARGE
from broker.flow.loads import Loads

TEXT = "x" * LARGE  # a body of this is a little larger: it is loaded when it is sent
ONE = LARGE + 1024  # bytes that such a body has at most


@given(
    allowed=st.integers(1, 100),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 60)), max_size=60),
)
def test_what_is_loaded_stays_within_what_is_allowed_but_for_one_that_is_alone(
    allowed: int, steps: list[tuple[bool, int, int]]
) -> None:
    loads = Loads(allowed)
    taken: list[tuple[int, int]] = []
    waiting: set[int] = set()
    for takes, who, size in steps:
        if takes:
            if loads.take(who, size, lambda who=who: waiting.discard(who)):  # type: ignore[misc]
                taken.append((who, size))
            else:
                assert taken, "one always fits"
                waiting.add(who)
        elif taken:
            loads.leave(*taken.pop(0))
            assert not waiting, "all that wait are told that there is more room"
        assert loads.taken == sum(size for _, size in taken)
        assert loads.taken <= allowed or len(taken) == 1
    for one in taken:
        loads.leave(*one)
    assert loads.taken == 0


def test_one_lane_has_half_of_the_room_and_leaves_the_rest_to_others() -> None:
    loads = Loads(256)
    took = [loads.take("slow", 32, lambda: None) for _ in range(8)]
    assert took.count(True) == 4
    assert loads.take("other", 32, lambda: None)


async def test_small_messages_go_on_while_large_ones_wait_for_room(opened: Opened) -> None:
    post = await opened(in_flight=4 * ONE, defaults=policy(lane={"concurrent": 16}))
    post.script.holds("test://a/in")
    for number in range(6):
        await post.send(message(f"b{number}", text=TEXT), asynchronous=True)
    await post.rest()
    assert len(post.script.to("test://a/in")) == 2, "half of the room, while it is alone"
    await post.send(message("small"), asynchronous=True)
    await post.rest()
    assert len(post.script.to("test://a/in")) == 3
    assert len(post.script.to("test://a/in")[-1].body) < LARGE
    await post.send(message("other", to=(B,), text=TEXT), asynchronous=True)
    await post.rest()
    assert len(post.script.to("test://b/in")) == 1, "another peer has room of its own"
    assert post.delivering.lanes["test://a"].waiting == 4
    post.script.accepts_all()
    await post.rest()
    assert [(await post.one(position)).state for position in range(1, 9)] == [State.DONE] * 8
    assert post.delivering._loads.taken == 0
    order = [one.message_id for one in post.script.to("test://a/in") if len(one.body) > LARGE]
    ids = [post.here.ids.of(number) for number in range(1, 7)]
    assert set(order[:2]) == set(ids[:2]), "those that came first went first"
    assert sorted(order) == sorted(ids), "and then the others, as room became free"


async def test_larger_message_than_all_the_room_is_sent_alone(opened: Opened) -> None:
    post = await opened(in_flight=1000)
    await post.send(message(text=TEXT), asynchronous=True)
    await post.rest()
    assert len(post.script.sent) == 1


@pytest.mark.parametrize("end", ["withdrawn", "held"])
async def test_large_message_that_waits_for_room_may_still_be_called_off(opened: Opened, end: str) -> None:
    post = await opened(in_flight=1000)
    post.script.holds("test://a/in")
    for number in range(3):
        await post.send(message(f"b{number}", f"m{number}", text=TEXT), asynchronous=True)
    await post.rest()
    lane = post.delivering.lanes["test://a"]
    assert (len(post.script.sent), lane.waiting) == (1, 2)
    if end == "withdrawn":
        await post.waits.withdraw(2, "it was a mistake")
    else:
        lane._put_back_all(post.now)
        assert lane.waiting == 0
        assert lane.known == {(1, 1)}
    post.script.accepts_all()
    await post.rest()
    await post.later(seconds=15)
    states = [(await post.one(position)).state for position in (1, 2, 3)]
    assert states == [State.DONE, State.WITHDRAWN if end == "withdrawn" else State.DONE, State.DONE]
    assert post.delivering._loads.taken == 0

"""Holds: an operator lets nothing go to a peer; planned ones begin and end by themselves."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from flow_post import ACCEPTED, ENDPOINTS, A, B, Opened, Post, message, policy

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.delivery import State
from broker.core.hold import Hold
from broker.store import StoreError

LANE = "test://a"
HOUR = timedelta(hours=1)


async def sends(post: Post, count: int, to: str = A, begin: int = 0) -> None:
    await asyncio.gather(*(
        post.send(message(f"{to}b{n}", f"{to}m{n}", to=(to,)), asynchronous=True) for n in range(begin, begin + count)
    ))  # fmt: skip
    await post.rest()


async def holds(post: Post, begins: timedelta = timedelta(), ends: timedelta | None = None, reason: str = "") -> None:
    until = None if ends is None else post.now + ends
    hold = Hold(lane=LANE, reason=reason, begins=post.now + begins, ends=until, ordered=post.now)
    await post.delivering.hold(hold)
    await post.rest()


async def test_nothing_goes_to_a_held_lane_and_all_of_it_once_it_is_resumed(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 3}))
    await holds(post, reason="moving house")
    await sends(post, 50)
    await sends(post, 3, B)
    await post.later(hours=3)
    assert [one.address for one in post.script.sent] == ["test://b/in"] * 3
    assert (await post.one(1)).attempts == 0, "it costs no attempt"
    assert [step.what for step in (await post.one(1)).steps] == []
    assert post.delivering.lanes[LANE].reason == "moving house"
    assert await post.delivering.resume(LANE)
    await post.rest()
    assert len(post.script.to("test://a/in")) == 50, "due at once"
    assert post.script.most["test://a/in"] <= 3, "at the pace of the lane"
    assert not await post.delivering.resume(LANE)


async def test_what_is_under_way_is_finished_and_what_is_ready_stays(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 2}))
    post.script.holds("test://a/in")
    await sends(post, 10)
    await holds(post)
    post.script.accepts_all()
    await post.later(hours=1)
    assert len(post.script.sent) == 2
    assert [(await post.one(n)).state for n in range(1, 11)] == [State.DONE] * 2 + [State.WAITING] * 8


async def test_planned_hold_begins_and_ends_by_itself(post: Post) -> None:
    await holds(post, begins=HOUR, ends=2 * HOUR)
    await sends(post, 1)
    assert len(post.script.sent) == 1
    await post.later(hours=1)
    await sends(post, 5, begin=1)
    assert len(post.script.sent) == 1
    assert not post.delivering.is_open(LANE, A)
    await post.later(minutes=59)
    assert len(post.script.sent) == 1
    await post.later(minutes=1)
    await post.later(seconds=1)
    assert len(post.script.sent) == 6
    assert await post.store.holds() == (), "it is over, and not kept"


async def test_hold_survives_a_restart_and_a_crash(opened: Opened) -> None:
    post = await opened()
    await holds(post)
    await sends(post, 2)
    for end in ("crash", "stop"):
        await getattr(post, end)()
        post = await opened(now=post.now)
        assert not post.delivering.is_open(LANE, A)
        await post.later(minutes=5)
        assert post.script.sent == []
    await post.delivering.resume(LANE)
    await post.later(seconds=1)
    assert len(post.script.sent) == 2


async def test_hold_that_ended_while_we_were_down_is_over(opened: Opened) -> None:
    post = await opened()
    await holds(post, ends=HOUR)
    await sends(post, 2)
    await post.stop()
    again = await opened(now=post.now + 2 * HOUR)
    await again.rest()
    await again.later(seconds=1)
    assert len(again.script.sent) == 2


async def test_second_hold_replaces_the_first(post: Post) -> None:
    await holds(post)
    await sends(post, 1)
    await holds(post, begins=HOUR)
    await post.later(seconds=1)
    assert len(post.script.sent) == 1, "the one that had begun is gone"
    await post.later(hours=1)
    await sends(post, 1, begin=1)
    assert len(post.script.sent) == 1


async def test_what_is_held_expires_as_ever(opened: Opened) -> None:
    post = await opened(defaults=policy(retry={"give_up": HOUR}))
    await holds(post)
    await sends(post, 1)
    await post.later(hours=1)
    assert (await post.one()).state is State.DEAD
    assert [report["code"] for report in await post.reports()] == ["transient-error"]
    assert post.script.sent == []


async def test_next_address_is_taken_while_the_first_is_held(opened: Opened) -> None:
    post = await opened(endpoints={**ENDPOINTS, A: {"first": ["test://a/in", "test://b/in"]}})
    await holds(post)
    assert (await post.send(message())).kind is AnswerKind.TAKEN
    assert [one.address for one in post.script.sent] == ["test://b/in"]


async def test_hold_of_a_lane_in_trouble_does_not_probe_it(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"open_after": 1}))
    post.script.says("test://a/in", Deferred(note="down", of_peer=True, left=False))
    await sends(post, 3)
    tried = len(post.script.sent)
    await holds(post)
    await post.later(minutes=10)
    assert len(post.script.sent) == tried
    post.script.says("test://a/in", ACCEPTED)
    await post.delivering.resume(LANE)
    for _ in range(2):
        await post.later(minutes=2)
    assert [(await post.one(n)).state for n in (1, 2, 3)] == [State.DONE] * 3


async def test_hold_that_cannot_be_kept_is_none(post: Post) -> None:
    await post.store.close()
    try:
        await post.delivering.hold(Hold(lane=LANE, begins=post.now, ordered=post.now))
    except StoreError:
        assert post.delivering.is_open(LANE, A)
    else:
        raise AssertionError("it was not kept, and nobody was told")
    finally:
        post._running.cancel()
        await asyncio.gather(post._running, return_exceptions=True)

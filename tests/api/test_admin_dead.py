"""Dead letters over the admin interface: listed, redriven, dropped."""

from __future__ import annotations

from datetime import timedelta

from operator_desk import BOX, EHR, LANE, NOW, REFUSED, Desk, delivery

from broker.core.delivery import State


async def test_dead_letters_are_listed_with_their_reason(desk: Desk) -> None:
    position = await desk.dead()
    status, page = await desk.get("/dead")
    (letter,) = page["dead"]
    assert (status, page["next"], letter["id"]) == (200, None, desk.id(position))
    assert letter["delivery"]["outcome"]["problem"]["id"] == "refused-by-receiver"
    assert letter["delivery"]["steps"][-1]["note"] == "422 Unprocessable"


async def test_pages_never_cut_a_message_in_two(desk: Desk) -> None:
    two = (delivery(), delivery("urn:oid:1.2.2002"))
    positions = [await desk.dead(number, deliveries=two) for number in (1, 2, 3)]
    for position in positions:
        await desk.settle(position, "refused", State.DEAD, number=2, problem=REFUSED)
    seen, after, pages = [], 0, 0
    while after is not None:
        _, page = await desk.get(f"/dead?limit=1&after={after}")
        seen += [(one["position"], one["delivery"]["number"]) for one in page["dead"]]
        after, pages = page["next"], pages + 1
    assert seen == [(position, number) for position in positions for number in (1, 2)]
    assert pages == 3


async def test_redriven_letters_wait_again_and_their_lane_is_woken(desk: Desk) -> None:
    position = await desk.dead()
    desk.here.clock = NOW + timedelta(days=3)
    status, told = await desk.post(f"/dead/{desk.id(position)}/redrive")
    assert (status, told) == (200, {"id": desk.id(position), "redriven": [1]})
    (one,) = await desk.store.deliveries(position)
    assert (one.state, one.due) == (State.WAITING, desk.here.clock)
    assert one.expiry == desk.here.clock + timedelta(hours=24)  # its rule's give-up, counted anew
    assert desk.delivering.awake == [(LANE, EHR)]
    assert (await desk.get("/dead"))[1]["dead"] == []


async def test_one_delivery_can_be_redriven_alone(desk: Desk) -> None:
    position = await desk.dead(deliveries=(delivery(), delivery("urn:oid:1.2.2002")))
    await desk.settle(position, "refused", State.DEAD, number=2, problem=REFUSED)
    _, told = await desk.post(f"/dead/{desk.id(position)}/redrive?number=2")
    assert told["redriven"] == [2]
    assert [one.state for one in await desk.store.deliveries(position)] == [State.DEAD, State.WAITING]


async def test_what_is_not_dead_is_not_redriven(desk: Desk) -> None:
    position = await desk.accept()
    for path in (f"/dead/{desk.id(position)}/redrive", f"/dead/{desk.id(position)}/redrive?number=1"):
        status, told = await desk.post(path)
        assert (status, told["error"]["id"]) == (409, "not-dead")
    status, told = await desk.post(f"/dead/{desk.id(position)}/redrive?number=9")
    assert (status, told["error"]["id"]) == (404, "unknown-delivery")
    assert desk.delivering.awake == []


async def test_what_its_sender_calls_worthless_by_now_stays_dead(desk: Desk) -> None:
    position = await desk.dead(expirytime=NOW + timedelta(hours=1))
    status, _ = await desk.post(f"/dead/{desk.id(position)}/redrive")
    (one,) = await desk.store.deliveries(position)
    assert (status, one.expiry) == (200, NOW + timedelta(hours=1))
    await desk.settle(position, "refused", State.DEAD, problem=REFUSED)
    desk.here.clock = NOW + timedelta(hours=2)
    status, told = await desk.post(f"/dead/{desk.id(position)}/redrive")
    assert (status, told["error"]["id"]) == (409, "expired")


async def test_all_are_redriven_at_once_and_what_cannot_be_is_named(desk: Desk) -> None:
    good = [await desk.dead(number) for number in (1, 2, 3)]
    late = await desk.dead(4, expirytime=NOW)
    status, told = await desk.post("/dead/redrive")
    assert (status, told["redriven"]) == (200, 3)
    assert [(left["id"], left["error"]["id"]) for left in told["left"]] == [(desk.id(late), "expired")]
    for position in good:
        assert (await desk.store.deliveries(position))[0].state is State.WAITING


async def test_those_that_are_named_are_redriven(desk: Desk) -> None:
    first, second = await desk.dead(1), await desk.dead(2)
    _, told = await desk.post("/dead/redrive", {"ids": [desk.id(second), "unknown"]})
    assert (told["redriven"], told["left"][0]["error"]["id"]) == (1, "unknown-message")
    assert (await desk.store.deliveries(first))[0].state is State.DEAD


async def test_a_body_that_says_something_else_redrives_nothing(desk: Desk) -> None:
    position = await desk.dead()
    for body in ({"id": ["x"]}, {"ids": "x"}, {"ids": [1]}, []):
        status, told = await desk.post("/dead/redrive", body)
        assert (status, told["error"]["id"]) == (400, "bad-request"), body
    assert (await desk.store.deliveries(position))[0].state is State.DEAD


async def test_a_dropped_letter_leaves_the_list_and_its_reason_stays(desk: Desk) -> None:
    position = await desk.dead()
    status, told = await desk.post(f"/dead/{desk.id(position)}/drop", {"reason": "sent again\nby letter"})
    assert (status, told["dropped"]) == (200, [1])
    assert (await desk.get("/dead"))[1]["dead"] == []
    _, story = await desk.get(f"/messages/{desk.id(position)}")
    assert ("dropped", True) in [(e["what"], e["text"].endswith("sent again by letter")) for e in story["story"]]


async def test_nothing_is_dropped_without_a_reason(desk: Desk) -> None:
    position = await desk.dead()
    for body in (None, {}, {"reason": " "}, {"reason": 1}, {"reason": "x" * 501}):
        status, told = await desk.post(f"/dead/{desk.id(position)}/drop", body)
        assert (status, told["error"]["id"]) == (400, "reason-missing")
    assert (await desk.store.deliveries(position))[0].state is State.DEAD


async def test_numbers_that_are_none_are_refused(desk: Desk) -> None:
    for query in ("limit=0", "limit=x", "after=-1", "limit=1&limit=2"):
        status, told = await desk.get(f"/dead?{query}")
        assert (status, told["error"]["id"]) == (400, "bad-request"), query


async def test_the_names_here_are_the_store_s_own(desk: Desk) -> None:
    position = await desk.dead()
    _, page = await desk.get("/dead")
    assert page["dead"][0]["delivery"]["destination"] == EHR != BOX
    assert page["dead"][0]["position"] == position

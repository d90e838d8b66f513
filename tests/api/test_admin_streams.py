"""Streams over the admin interface: what is held, what waits behind what, and the word to go on."""

from __future__ import annotations

import msgspec
from operator_desk import EHR, LANE, NOW, SOURCE, Desk, delivery

from broker.core.delivery import State
from broker.core.policy import DEFAULT, Order

SKIP = msgspec.structs.replace(DEFAULT, order=Order.SOURCE)
HOLD = msgspec.structs.replace(SKIP, on_refused="hold")
STREAM = b"s" * 16


async def held(desk: Desk) -> tuple[int, int, int]:
    """A dead letter and two that wait for somebody to decide."""
    planned = (delivery(policy=HOLD, stream=STREAM),)
    return (
        await desk.dead(1, deliveries=planned),
        await desk.accept(2, deliveries=planned),
        await desk.accept(3, deliveries=planned),
    )


async def test_held_stream_is_listed_with_what_holds_it_and_what_waits(desk: Desk) -> None:
    dead, second, _ = await held(desk)
    assert await desk.get("/streams") == (200, {"streams": [{
        "destination": EHR, "address": "http://ehr.example/fhir/$process-message", "order": "source", "by": "source",
        "value": SOURCE, "waiting": 2, "next": desk.id(second),
        "held_by": [{"id": desk.id(dead), "delivery": 1, "since": NOW.isoformat().replace("+00:00", "Z")}],
    }]})  # fmt: skip
    assert (await desk.get("/status"))[1]["counts"]["held_streams"] == 1


async def test_stream_in_which_some_wait_is_listed_until_they_do_no_more(desk: Desk) -> None:
    planned = (delivery(policy=SKIP, stream=STREAM),)
    first, _ = await desk.accept(1, deliveries=planned), await desk.accept(2, deliveries=planned)
    ((told,),) = [(await desk.get("/streams"))[1]["streams"]]
    assert (told["waiting"], told["next"], told["held_by"]) == (2, desk.id(first), [])
    await desk.settle(first, "delivered", State.DONE)
    assert (await desk.get("/streams"))[1] == {"streams": []}


async def test_trace_says_what_a_delivery_waits_for_and_shows_no_time_for_it(desk: Desk) -> None:
    planned = (delivery(policy=SKIP, stream=STREAM),)
    first, second = await desk.accept(1, deliveries=planned), await desk.accept(2, deliveries=planned)
    _, told = await desk.get(f"/messages/{desk.id(second)}")
    (one,) = told["deliveries"]
    assert (one["order"], one["due"]) == ("source", None)
    assert one["stream"] == {"behind": desk.id(first), "ahead": 1, "held_by": [], "holds": False}
    assert [entry["what"] for entry in told["ahead"]] == ["give-up", "answer-time-over"]


async def test_trace_and_list_of_the_dead_say_what_holds(desk: Desk) -> None:
    dead, _, third = await held(desk)
    _, told = await desk.get(f"/messages/{desk.id(third)}")
    assert told["deliveries"][0]["stream"]["held_by"] == [desk.id(dead)]
    _, page = await desk.get("/dead")
    assert page["dead"][0]["delivery"]["stream"]["holds"] is True


async def test_resumed_stream_goes_on_and_its_lane_is_woken(desk: Desk) -> None:
    dead, second, _ = await held(desk)
    status, told = await desk.post(f"/streams/{desk.id(dead)}/resume")
    assert (status, told) == (200, {"id": desk.id(dead), "resumed": [1]})
    assert desk.delivering.awake == [(LANE, EHR)]
    assert not (await desk.store.deliveries(second))[0].is_behind
    _, told = await desk.get(f"/messages/{desk.id(dead)}")
    assert "resumed" in [entry["what"] for entry in told["story"]]
    status, told = await desk.post(f"/streams/{desk.id(dead)}/resume")
    assert (status, told["error"]["id"]) == (409, "not-held")


async def test_only_the_delivery_that_is_named_lets_its_stream_go_on(desk: Desk) -> None:
    dead, _, _ = await held(desk)
    status, told = await desk.post(f"/streams/{desk.id(dead)}/resume?number=2")
    assert (status, told["error"]["id"]) == (409, "not-held")
    assert (await desk.post(f"/streams/{desk.id(dead)}/resume?number=1"))[0] == 200


async def test_dropped_and_redriven_letters_wake_the_lane_of_who_was_next(desk: Desk) -> None:
    dead, _, _ = await held(desk)
    await desk.post(f"/dead/{desk.id(dead)}/drop", {"reason": "sent by letter"})
    assert desk.delivering.awake == [(LANE, EHR)]


async def test_lane_in_which_all_wait_for_others_has_no_time_to_show(desk: Desk) -> None:
    await held(desk)
    ((lane,),) = [(await desk.get("/lanes"))[1]["lanes"]]
    assert (lane["waiting"], lane["next_due"]) == (2, None)

"""The teller: what passes through becomes events with numbers, each once, whatever happens meanwhile (S-17, S-20)."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from flow_post import START, A, Opened, Post, answered_with, message, response
from flow_telling import (
    ACTIVE,
    ADMISSIONS,
    ENCOUNTERS,
    Telling,
    admission,
    encounter,
)

from broker.core.subscription.content import Content
from broker.core.subscription.life import Life
from broker.core.subscription.subscription import Status
from broker.core.subscription.topic import Interaction
from broker.flow.aside import ASIDE
from broker.flow.subscribing import tell
from broker.store import StoreError
from broker.store.telling import LogPage


@pytest.fixture
async def telling(post: Post) -> Telling:
    return await Telling(post).load()


async def test_event_of_a_topic_is_numbered_for_each_who_is_subscribed(telling: Telling) -> None:
    one, two = await telling.subscribe("one"), await telling.subscribe("two")
    other = await telling.subscribe("other", ENCOUNTERS)
    await telling.post.send(admission(1))
    await telling.post.send(message("b9", "m9", event="discharge"))
    await telling.post.send(admission(2))
    await telling.told()
    assert await telling.numbers(one) == await telling.numbers(two) == [1, 2]
    assert await telling.numbers(other) == []
    assert (telling.counted(one), telling.counted(two), telling.counted(other)) == (2, 2, 0)
    assert (telling.meter.events, telling.meter.numbers) == (2, 4)
    first, second = await telling.heard(one)
    assert (first.position, second.position, first.topic, first.places) == (1, 3, ADMISSIONS, ())
    assert first.at == telling.post.now
    assert not first.relayed


async def test_event_says_where_in_the_message_its_focus_is_and_what_goes_along(telling: Telling) -> None:
    row = await telling.subscribe("one", ENCOUNTERS)
    await telling.post.send(encounter(1))
    await telling.told()
    (heard,) = await telling.heard(row)
    assert heard.places == (2, 1)  # the Encounter, then its Patient
    assert (heard.topic, heard.interaction) == (f"{ENCOUNTERS}|1", Interaction.UPDATE)


async def test_filters_decide_who_hears(telling: Telling) -> None:
    rows = [
        await telling.subscribe(f"p{patient}", ENCOUNTERS, filters={"patient": f"Patient/p{patient}"})
        for patient in range(3)
    ]
    for number, patient in enumerate((1, 2, 1)):
        await telling.post.send(encounter(number, patient))
    await telling.told()
    assert [len(await telling.heard(row)) for row in rows] == [0, 2, 1]


async def test_listeners_hear_of_each_count_once_a_page(telling: Telling) -> None:
    row = await telling.subscribe("one")
    telling.changed.clear()
    for number in range(5):
        await telling.post.send(admission(number))
    await telling.told()
    assert telling.changed == [row.key]
    assert telling.counted(row) == 5


async def test_responses_cause_events_and_our_own_reports_do_not(telling: Telling) -> None:
    telling.post.script.says(A, answered_with(response("m1", event="admit")))
    telling.post.script.says("test://a/in", answered_with(response("m1", event="admit")))
    row = await telling.subscribe("one")
    await telling.post.send(admission(1))  # answered; its caller waits for that
    await telling.post.send(admission(2, to=("urn:oid:9.9", A)))  # one of its destinations gets a bounce
    await telling.post.rest()
    assert await telling.post.reports()
    await telling.told()
    positions = [one.position for one in await telling.heard(row)]
    assert len(positions) == len(set(positions)) == 3


async def test_copy_of_a_message_is_no_second_event(telling: Telling) -> None:
    row = await telling.subscribe("one")
    for _ in range(2):
        await telling.post.send(admission(1))
        await telling.told()
    assert await telling.numbers(row) == [1]


# -- who subscribes when


async def test_what_was_accepted_before_is_not_heard_and_what_comes_after_is(telling: Telling) -> None:
    post = telling.post
    await telling.subscribe("first")
    await post.send(admission(1))  # not told yet
    post.now += timedelta(seconds=1)
    late = await telling.subscribe("late")
    await post.send(admission(2))
    await telling.told()
    assert [one.position for one in await telling.heard(late)] == [2]


async def test_subscription_that_was_written_anew_hears_all_since_it_was_created(telling: Telling) -> None:
    post = telling.post
    row = await telling.subscribe("one")
    await post.send(admission(1))
    post.now += timedelta(seconds=1)
    new = await telling.store.rewrite(row.key, row.subscription, row.life, version=1, at=post.now)
    assert new is not None
    telling.registry.put(new)
    await telling.told()
    assert await telling.numbers(row) == [1]


async def test_hearers_may_come_and_go_while_a_page_is_told(telling: Telling) -> None:
    """Who is gone when it is written is left out, and nobody else is harmed."""
    stays, goes = await telling.subscribe("stays"), await telling.subscribe("goes")
    await telling.post.send(admission(1))
    before = telling.store.tell

    def between(*given: Any) -> Any:
        telling.store.unsubscribe(goes.key)  # in the queue before it
        telling.registry.drop(goes.key)
        return before(*given)

    with patch.object(telling.store, "tell", between):
        await telling.told()
    assert await telling.numbers(stays) == [1]
    assert await telling.numbers(goes) == []
    assert telling.registry.get(goes.key) is None


@pytest.mark.parametrize(
    ("life", "hears"),
    [
        (Life(status=Status.REQUESTED), False),
        (Life(status=Status.ERROR, was_active=True), True),
        (Life(status=Status.REQUESTED, was_active=True), True),
        (Life(status=Status.OFF, was_active=True), False),
    ],
)
async def test_who_counts_events_is_said_by_its_life(telling: Telling, life: Life, hears: bool) -> None:
    """S-17: in error it goes on."""
    await telling.subscribe("other")
    row = await telling.subscribe("one", life=life)
    await telling.post.send(admission(1))
    await telling.told()
    assert bool(await telling.heard(row)) is hears


# -- with nobody there


async def test_while_nobody_has_subscribed_nothing_is_read_and_the_position_follows(telling: Telling) -> None:
    post = telling.post
    assert not await telling.teller.once()
    with patch.object(telling.store, "log", side_effect=AssertionError("nothing is to be read")):
        for number in range(3):
            await post.send(admission(number))
        await telling.told()
        assert await telling.store.told() == 0  # it was noted a moment ago
        post.now += tell.IDLE
        await telling.told()
        assert await telling.store.told() == 3
    row = await telling.subscribe("one")
    await post.send(admission(7))
    await telling.told()
    assert [one.position for one in await telling.heard(row)] == [4]


async def test_who_subscribes_while_the_end_of_the_log_is_looked_for_misses_nothing(telling: Telling) -> None:
    post, rows = telling.post, []
    before = telling.store.newest

    async def newest() -> int:
        rows.append(await telling.subscribe("one"))
        await post.send(admission(1))
        return await before()

    with patch.object(telling.store, "newest", newest):
        await telling.told()
    assert await telling.numbers(rows[0]) == [1]


# -- pages


async def test_pages_and_transactions_are_bounded_and_nothing_is_lost_between_them(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tell, "PAGE", 4)
    monkeypatch.setattr(tell, "HEARD", 5)
    monkeypatch.setattr(tell, "AT_ONCE", 2)
    monkeypatch.setattr(tell, "SLICE", 0.0)
    rows = [await telling.subscribe(f"s{number}") for number in range(3)]
    for number in range(10):
        await telling.post.send(admission(number))
    sizes: list[int] = []
    before = telling.store.tell

    def tell_of(upto: int, events: Any) -> Any:
        sizes.append(sum(len(event.hearers) for event in events))
        return before(upto, events)

    with patch.object(telling.store, "tell", tell_of):
        await telling.told()
    assert max(sizes) == 6
    assert len(sizes) >= 5
    for row in rows:
        assert await telling.numbers(row) == list(range(1, 11))
        assert telling.counted(row) == 10


@pytest.mark.parametrize("size", [tell.LARGEST, ASIDE])
async def test_large_message_is_told_of_like_others(telling: Telling, size: int) -> None:
    row = await telling.subscribe("one", ENCOUNTERS, filters={"patient": "Patient/p1"})
    large = json.loads(encounter(1))
    large["entry"][1]["resource"]["text"] = {"div": "x" * (size + 1)}
    await telling.post.send(json.dumps(large).encode(), asynchronous=True)
    await telling.post.send(message("b2", "m2", text="x" * (size + 1)), asynchronous=True)
    await telling.post.send(encounter(3), asynchronous=True)
    await telling.told()
    assert [(one.position, one.places) for one in await telling.heard(row)] == [(1, (2, 1)), (3, (2, 1))]


async def test_large_message_is_read_here_where_the_process_for_it_fails(telling: Telling) -> None:
    row = await telling.subscribe("one", ENCOUNTERS)
    large = json.loads(encounter(1))
    large["entry"][1]["resource"]["text"] = {"div": "x" * (ASIDE + 1)}
    await telling.post.send(json.dumps(large).encode(), asynchronous=True)
    with patch.object(telling.post.aside, "_ask", side_effect=EOFError):
        await telling.told()
    assert [one.places for one in await telling.heard(row)] == [(2, 1)]


@pytest.mark.parametrize("large", [False, True])
async def test_message_whose_bytes_are_gone_is_passed_over(telling: Telling, large: bool) -> None:
    row = await telling.subscribe("one", ENCOUNTERS)
    body = json.loads(encounter(1))
    if large:
        body["entry"][1]["resource"]["text"] = {"div": "x" * (tell.LARGEST + 1)}
    await telling.post.send(json.dumps(body).encode(), asynchronous=True)
    await telling.post.send(encounter(2), asynchronous=True)
    await telling.post.rest()
    before = telling.store.log

    async def without_the_first(*given: int) -> Any:
        page = await before(*given)
        first = [msgspec.structs.replace(one, body=None) for one in page.entries if one.position == 1]
        return msgspec.structs.replace(page, entries=(*first, *page.entries[len(first) :]))

    async def gone(position: int) -> None:
        return None

    with patch.object(telling.store, "log", without_the_first), patch.object(telling.teller._bodies, "body", gone):
        await telling.told()
    assert [one.position for one in await telling.heard(row)] == [2]


async def test_message_that_cannot_be_looked_into_keeps_nobody_from_hearing_of_others(
    telling: Telling, capsys: pytest.CaptureFixture[str]
) -> None:
    row = await telling.subscribe("one", ENCOUNTERS)
    for number in range(3):
        await telling.post.send(encounter(number))

    def content(body: bytes, header: Any, places: Any) -> Content:
        if b"e1" in body:
            raise RecursionError("Patient/p1 is in these words")
        return Content(body, header, places)

    with patch.object(tell, "Content", content):
        await telling.told()
    assert [one.position for one in await telling.heard(row)] == [1, 3]
    said = capsys.readouterr()
    assert "RecursionError" in said.out + said.err
    assert "Patient" not in said.out + said.err


# -- restarts and failures


async def test_numbers_go_on_after_a_restart(opened: Opened) -> None:
    telling = await Telling(await opened()).load()
    row = await telling.subscribe("one")
    await telling.post.send(admission(1))
    await telling.told()
    await telling.post.send(admission(2))  # accepted, and not told
    await telling.post.crash()
    again = await Telling(await opened()).load()
    await again.post.send(admission(3))
    await again.told()
    assert await again.numbers(row) == [1, 2, 3]
    assert [one.position for one in await again.heard(row)] == [1, 2, 3]


async def test_crash_after_the_numbers_were_written_gives_none_twice(opened: Opened) -> None:
    """Memory never heard of them; the store has."""
    telling = await Telling(await opened()).load()
    row = await telling.subscribe("one")
    await telling.post.send(admission(1))
    with (
        patch.object(telling.registry, "count", side_effect=asyncio.CancelledError),
        pytest.raises(asyncio.CancelledError),
    ):
        await telling.told()
    assert telling.counted(row) == 0
    await telling.post.crash()
    again = await Telling(await opened()).load()
    assert again.counted(row) == 1
    await again.told()
    assert await again.numbers(row) == [1]


async def test_store_that_fails_is_asked_again_and_nothing_is_lost(telling: Telling) -> None:
    row = await telling.subscribe("one")
    await telling.post.send(admission(1))
    for name in ("log", "tell", "told", "subscribed"):  # the last two are asked after a failure to tell
        with patch.object(telling.store, name, side_effect=StoreError("the disk is away")), pytest.raises(StoreError):
            await telling.teller.once()
    await telling.told()
    assert await telling.numbers(row) == [1]
    assert telling.counted(row) == 1


async def test_what_was_written_although_the_store_had_failed_is_known_to_all(telling: Telling) -> None:
    """A write may take longer than its deadline, and yet be done."""
    row = await telling.subscribe("one")
    await telling.post.send(admission(1))
    before = telling.store.tell

    async def late(*given: Any) -> dict[int, int]:
        await before(*given)
        raise StoreError("it took too long")

    with patch.object(telling.store, "tell", late), pytest.raises(StoreError):
        await telling.teller.once()
    assert telling.counted(row) == 0
    await telling.told()
    assert telling.counted(row) == 1
    assert await telling.numbers(row) == [1]


async def test_row_that_was_on_its_way_does_not_take_a_count_back(telling: Telling) -> None:
    row = await telling.subscribe("one")
    stale = await telling.store.move(row.key, ACTIVE)
    assert stale is not None
    await telling.post.send(admission(1))
    await telling.told()
    telling.registry.put(stale)
    assert telling.counted(row) == 1


async def test_it_runs_until_it_is_cancelled_and_is_woken_by_what_is_accepted(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tell, "GATHER", 0.0)
    monkeypatch.setattr(tell, "AGAIN", 0.0)
    row = await telling.subscribe("one")
    counted, before, failures = asyncio.Event(), telling.store.log, list[StoreError]()

    async def log(*given: int) -> LogPage:
        if failures:
            raise failures.pop()
        return await before(*given)

    monkeypatch.setattr(telling.store, "log", log)
    telling.registry.on_change(lambda key: counted.set())
    running = asyncio.ensure_future(telling.teller.run())
    async with asyncio.timeout(10):
        for number in range(3):
            counted.clear()
            failures += [StoreError("away")] * (2 if number == 1 else 0)
            await telling.post.send(admission(number))
            await counted.wait()
            assert not failures
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert await telling.numbers(row) == [1, 2, 3]
    assert telling.teller.behind == timedelta()


async def test_lag_is_the_age_of_what_was_not_looked_into(telling: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tell, "PAGE", 1)
    await telling.subscribe("one")
    for number in range(2):
        await telling.post.send(admission(number))
    telling.post.now = START + timedelta(seconds=30)
    assert await telling.teller.once()
    assert telling.teller.behind == timedelta(seconds=30)
    assert not await telling.teller.once()
    assert telling.teller.behind == timedelta()
    assert telling.meter.lag[-1] == 0


@pytest.mark.parametrize("seed", range(8))
async def test_whenever_it_is_killed_each_event_is_heard_once_and_numbers_have_no_gap(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(tell, "PAGE", 3)
    monkeypatch.setattr(tell, "HEARD", 4)
    monkeypatch.setattr(tell, "GATHER", 0.0)
    telling = await Telling(await opened()).load()
    everything = await telling.subscribe("everything")
    some = await telling.subscribe("some", ENCOUNTERS, filters={"patient": "Patient/p1"})
    wanted: dict[int, list[bytes]] = {everything.key: [], some.key: []}
    number = 0
    for _ in range(12):
        running = asyncio.ensure_future(telling.teller.run())
        for _ in range(dice.randrange(6)):
            number += 1
            if dice.random() < 0.5:
                body = admission(number)
                wanted[everything.key].append(body)
            else:
                patient = dice.randrange(2)
                body = encounter(number, patient)
                if patient == 1:
                    wanted[some.key].append(body)
            await telling.post.send(body, asynchronous=True)
        for _ in range(dice.randrange(40)):
            await asyncio.sleep(0)
        running.cancel()
        await telling.post.crash()
        await asyncio.gather(running, return_exceptions=True)
        telling = await Telling(await opened()).load()
    await telling.told()
    for row in (everything, some):
        heard = await telling.heard(row)
        assert [one.number for one in heard] == list(range(1, len(wanted[row.key]) + 1))
        assert [await telling.store.body(one.position) for one in heard] == wanted[row.key]
        assert telling.counted(row) == len(heard)

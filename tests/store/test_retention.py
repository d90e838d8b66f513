"""Retention by kind, with a clock in hand: what goes when its time is over, and what never does before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from old_store import of_version_2
from store_shelf import NOTHING, Shelf
from store_values import DAY, NOW, delivery, ended, expecting, mail, new, settlement, step

from broker.core.delivery import AnswerState, Event, State
from broker.core.message import Fate
from broker.store import Change, Copy, Filter, Kept, Note, Removed, Settlement, retention, schema
from broker.store.bodies import LARGE

ALL = Filter()


async def test_each_kind_goes_when_its_time_is_over_and_not_before(shelf: Shelf) -> None:
    position = await shelf.carried(quotes=("q",))
    await shelf.store.note(position, Note(at=NOW, what="copy"))
    assert await shelf.after(9.9) == NOTHING
    assert (await shelf.after(10)).body == 1
    stored = await shelf.store.stored(position)
    assert stored is not None
    assert not stored.body_kept
    assert await shelf.store.body(position) is None
    assert await shelf.store.find(("q",), 5) == (position,)
    assert await shelf.after(29.9) == NOTHING
    assert (await shelf.after(30)).identity == 1
    assert await shelf.store.find(("q",), 5) == ()
    assert await shelf.after(39.9) == NOTHING
    assert len(await shelf.store.deliveries(position)) == 1
    assert (await shelf.after(40)).trace == 1
    assert await shelf.store.stored(position) is None
    assert [shelf.rows(table) for table in ("message", "delivery", "note", "claim", "held", "mail")] == [0] * 6


async def test_what_came_later_stays_when_the_older_goes(shelf: Shelf) -> None:
    first = await shelf.carried("1")
    shelf.now = NOW + DAY
    second = await shelf.carried("2")
    await shelf.after(10.5)
    assert await shelf.store.body(first) is None
    assert await shelf.store.body(second) == b"{}"


@pytest.mark.parametrize("kind", ["waiting", "dead", "unanswered"])
async def test_nothing_that_waits_is_dead_or_unanswered_is_removed(shelf: Shelf, kind: str) -> None:
    position = await shelf.keep(new("b", mail("urn:box"), expecting() if kind == "unanswered" else delivery("urn:x")))
    if kind == "dead":
        await shelf.store.settle(settlement(position, 2, state=State.DEAD))
    if kind == "unanswered":
        await shelf.store.settle(settlement(position, 2))
    await shelf.carried("free")
    assert (await shelf.after(1000)).trace == 1
    assert await shelf.store.body(position) == b"{}"
    assert await shelf.store.accept(new("b")) == Copy(position=position)
    assert (await shelf.store.read("urn:box", 0, 5, ALL, False, 1 << 20)).entries[0].position == position
    assert shelf.rows("held") == 1


async def test_what_was_held_goes_once_it_is_free(shelf: Shelf) -> None:
    position = await shelf.keep(new("b"))
    await shelf.after(35)
    await shelf.store.settle(Settlement(change=ended(position, state=State.DEAD)))
    assert await shelf.after(36) == NOTHING
    assert await shelf.store.drop(position, 1, shelf.now, "nobody wants it")
    assert await shelf.after(36) == NOTHING  # it ended only now: kept from then on
    assert (await shelf.after(46.1)).body == 1
    assert (await shelf.after(66.1)).identity == 1
    assert (await shelf.after(76.1)).trace == 1
    assert shelf.rows("held") == 0


async def test_dead_letter_that_is_redriven_into_a_mailbox_is_kept_from_then_on(shelf: Shelf) -> None:
    position = await shelf.keep(new("b"))
    await shelf.store.settle(settlement(position, state=State.DEAD))
    await shelf.after(100)
    assert await shelf.store.redrive(position, 1, shelf.now, shelf.now + DAY)
    await shelf.store.settle(
        Settlement(change=Change(position=position, numbers=(1,), state=State.DONE, step=step(), mailbox="urn:box"))
    )
    await shelf.store.mark_read("urn:box", (position,), "reader", shelf.now)
    assert await shelf.after(119) == NOTHING
    assert len((await shelf.store.read("urn:box", 0, 5, ALL, False, 1 << 20)).entries) == 1
    assert (await shelf.after(120.1)).mailbox == 1


async def test_response_that_ended_the_search_lets_the_request_go(shelf: Shelf) -> None:
    request = await shelf.keep(new("b", expecting()))
    response = new("r", mail("urn:s"), answers=(request, 1), fate=Fate.ANSWER)
    await shelf.store.settle(settlement(request, comes=response))
    assert (await shelf.after(40)).trace == 2


async def test_mail_goes_read_or_not_and_the_body_with_it(shelf: Shelf) -> None:
    position = await shelf.keep(new("b", mail("urn:box"), mail("urn:other")))
    assert await shelf.after(19) == NOTHING
    assert await shelf.store.body(position) == b"{}"
    removed = await shelf.after(20)
    assert (removed.mailbox, removed.body) == (2, 1)
    assert (await shelf.store.read("urn:box", 0, 5, ALL, False, 1 << 20)).entries == ()


async def test_mail_whose_source_is_still_to_be_told_that_nobody_read_it_stays(shelf: Shelf) -> None:
    position = await shelf.keep(new("b", mail("urn:box", unread_by=NOW + 50 * DAY)))
    assert await shelf.after(49) == NOTHING
    await shelf.store.unread("urn:box", position, None)
    assert (await shelf.after(49)).mailbox == 1


async def test_reader_that_missed_mail_is_told_the_first_position_left(shelf: Shelf) -> None:
    for number in range(3):
        await shelf.keep(new(f"{number}", mail("urn:box")))
    shelf.now = NOW + DAY
    left = await shelf.keep(new("left", mail("urn:box")))
    await shelf.after(20.5)
    assert (await shelf.store.read("urn:box", 1, 5, ALL, False, 1 << 20)).first_left == left
    for after in (0, left - 1, left):
        page = await shelf.store.read("urn:box", after, 5, ALL, False, 1 << 20)
        assert page.first_left is None
        assert [entry.position for entry in page.entries] == [left][: left - after or 0]


async def test_positions_are_not_given_twice_after_all_has_gone(shelf: Shelf) -> None:
    positions = [await shelf.carried(f"{number}") for number in range(5)]
    await shelf.after(40)
    assert shelf.rows("message") == 0
    await shelf.reopen()
    assert await shelf.carried("next") == positions[-1] + 1
    assert await shelf.carried("0") == positions[-1] + 2  # its identity is free


async def test_claims_that_are_only_remembered_are_put_away_before_they_are_removed(shelf: Shelf) -> None:
    position = await shelf.carried("b", quotes=("q",))
    shelf.now = NOW + 30 * DAY
    assert (await shelf.step()).identity == 0
    assert await shelf.store.accept(new("b")) == Copy(position=position)
    assert (await shelf.after(30)).identity == 1
    assert isinstance(await shelf.store.accept(new("b")), Kept)
    await shelf.reopen()
    assert await shelf.store.find(("q",), 5) == ()
    assert await shelf.store.accept(new("b")) == Copy(position=position + 1)


async def test_steps_are_small_and_a_restart_goes_on_where_they_stood(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 3)
    for number in range(8):
        await shelf.carried(f"{number}")
    shelf.now = NOW + 10 * DAY
    assert await shelf.step() == Removed(body=3, mailbox=0, identity=0, trace=0, more=True)
    await shelf.reopen()
    assert (await shelf.step()).body == 3
    assert await shelf.step() == Removed(body=2, mailbox=0, identity=0, trace=0, more=False)
    assert await shelf.step() == NOTHING


async def test_held_messages_are_looked_at_in_turn(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "HELD_AT_ONCE", 2)
    positions = [await shelf.keep(new(f"{number}")) for number in range(5)]
    await shelf.after(10)
    for position in positions[2:4]:
        await shelf.store.settle(settlement(position))
    assert (await shelf.after(50)).body == 2
    assert await shelf.store.body(positions[4]) == b"{}"


async def test_kinds_kept_equally_long_go_in_one_walk(shelf: Shelf) -> None:
    shelf.ages = dict.fromkeys(shelf.ages, 10)
    await shelf.keep(new("b", mail("urn:box")))
    assert await shelf.after(10) == Removed(body=1, mailbox=1, identity=1, trace=1, more=False)


async def test_trace_waits_for_the_rest_of_its_message(shelf: Shelf) -> None:
    shelf.ages["trace"] = 1
    position = await shelf.keep(new("b", mail("urn:box")))
    assert await shelf.after(29) == Removed(body=1, mailbox=1, identity=0, trace=0, more=False)
    assert await shelf.store.stored(position) is not None
    assert (await shelf.after(30)).trace == 1


async def test_longer_retention_saves_what_is_left(shelf: Shelf) -> None:
    first = await shelf.carried("1")
    await shelf.after(10)
    shelf.now = NOW + 10 * DAY
    second = await shelf.carried("2")
    shelf.ages["body"] = 25
    assert await shelf.after(34.9) != NOTHING  # the first one's identity
    assert await shelf.store.body(first) is None
    assert await shelf.store.body(second) == b"{}"
    assert (await shelf.after(35)).body == 1


async def test_clock_set_back_removes_nothing_too_early_and_does_not_stop_the_walk(shelf: Shelf) -> None:
    shelf.now = NOW + 365 * DAY
    ahead = await shelf.carried("ahead")
    shelf.now = NOW
    right = await shelf.carried("right")
    assert await shelf.after(9) == NOTHING
    assert (await shelf.after(10)).body == 1
    assert await shelf.store.body(right) is None
    assert await shelf.store.body(ahead) == b"{}"
    shelf.now = NOW - 1000 * DAY
    assert await shelf.step() == NOTHING
    assert (await shelf.after(376)).body == 1


async def test_file_of_a_large_body_goes_after_its_row(shelf: Shelf) -> None:
    position = await shelf.carried("b", body=bytes(LARGE + 1))
    assert len(shelf.store.bodies.names()) == 1
    await shelf.after(10)
    shelf.store._files.shutdown()
    assert shelf.store.bodies.names() == set()
    assert await shelf.store.body(position) is None


async def test_reader_that_met_a_body_on_its_way_out_looks_again(shelf: Shelf) -> None:
    await shelf.keep(new("b", mail("urn:box"), body=bytes(LARGE + 1)))
    read = shelf.store.bodies.read
    gone: list[str] = []

    def vanishing(name: str) -> bytes:
        if not gone:
            gone.append(name)
            raise FileNotFoundError(name)
        return read(name)

    shelf.store.bodies.read = vanishing  # type: ignore[method-assign]
    page = await shelf.store.read("urn:box", 0, 5, ALL, False, 1 << 20)
    assert len(page.entries[0].body) == LARGE + 1


async def test_copy_that_names_a_new_destination_brings_its_body_back(shelf: Shelf) -> None:
    message = new("b", delivery(), body=b"{1}")
    position = await shelf.keep(message)
    await shelf.store.settle(settlement(position))
    await shelf.after(10)
    whole = (message.body, message.digest)
    assert (await shelf.store.add(position, (delivery(),), whole)).numbers == (0,)
    assert await shelf.store.body(position) is None
    assert (await shelf.store.add(position, (delivery("urn:more"),), (b"other", b"digest"))).numbers == (0,)
    assert (await shelf.store.add(position, (delivery("urn:more"),), whole)).numbers == (2,)
    assert await shelf.store.body(position) == b"{1}"
    assert await shelf.after(15) == NOTHING
    await shelf.store.settle(settlement(position, 2))
    assert (await shelf.after(25.1)).body == 1


async def test_nothing_is_held_that_ended_soon_after_it_came(shelf: Shelf) -> None:
    position = await shelf.keep(new("b"))
    shelf.now = NOW + timedelta(minutes=59)
    await shelf.store.settle(settlement(position))
    assert (await shelf.after(10)).body == 1
    assert shelf.rows("held") == 0


async def test_failed_step_changes_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.carried("b", body=bytes(LARGE + 1))
    monkeypatch.setattr(retention, "_empty", lambda *_: 1 / 0)
    shelf.now = NOW + 10 * DAY
    with pytest.raises(ZeroDivisionError):
        await shelf.step()
    monkeypatch.undo()
    assert await shelf.store.body(1) is not None
    assert (await shelf.step()).body == 1


async def test_file_of_an_older_release_is_brought_up_to_date(tmp_path: Path) -> None:
    path = of_version_2(tmp_path / "old.db")
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE held; PRAGMA user_version = 1")
    store = Shelf(path)
    await store.store.settle(settlement(1))
    assert (await store.after(10)).body == 0, "the one still waits, the other is in a mailbox"
    await store.store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION


# -- a dead letter that is redriven


async def test_redriven_delivery_looks_for_its_response_anew_for_as_long_as_at_first(shelf: Shelf) -> None:
    position = await shelf.keep(new("b", expecting()))
    for days in (5, 50):
        await shelf.store.settle(settlement(position, state=State.DEAD, answer=AnswerState.CLOSED))
        shelf.now = NOW + days * DAY
        assert await shelf.store.redrive(position, 1, shelf.now, shelf.now + DAY)
        (redriven,) = await shelf.store.deliveries(position)
        assert (redriven.answer, redriven.answer_by) == (AnswerState.OPEN, shelf.now + DAY)
        assert redriven.steps[-1].what == Event.REDRIVEN.value
    answer = new("r", mail("urn:s"), answers=(position, 1), fate=Fate.ANSWER)
    settled = await shelf.store.settle(settlement(position, comes=answer))
    assert isinstance(settled.came, Kept)
    assert settled.came.answered


@pytest.mark.parametrize(
    ("answer", "by", "then"),
    [
        (AnswerState.NONE, None, AnswerState.NONE),
        (AnswerState.ANSWERED, NOW + DAY, AnswerState.ANSWERED),
    ],
)
async def test_redriven_delivery_reopens_no_answer_that_was_not_closed(
    shelf: Shelf, answer: AnswerState, by: datetime | None, then: AnswerState
) -> None:
    position = await shelf.keep(new("b", delivery(answer=answer, answer_by=by)))
    await shelf.store.settle(settlement(position, state=State.DEAD, answer=AnswerState.CLOSED))
    assert await shelf.store.redrive(position, 1, NOW, NOW + DAY)
    (redriven,) = await shelf.store.deliveries(position)
    assert redriven.answer is then

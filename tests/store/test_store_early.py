"""What a write comes to, told before it is on disk: what may follow from that, and what if the disk then fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from store_values import delivery, expecting, new, settlement
from test_store_sqlite import no_room

from broker.core.delivery import AnswerState, State
from broker.core.message import Fate
from broker.store import Copy, Kept, StoreError, writer
from broker.store.sqlite import SqliteStore
from broker.store.transaction import Transaction

Open = Callable[[], SqliteStore]


@pytest.fixture(autouse=True)
def _waits_for_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes: what follows comes in each of these tests."""
    monkeypatch.setattr(writer, "FOLLOWS", 30.0)


def on_disk(tmp_path: Path) -> int:
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        return int(db.execute("SELECT count(*) FROM message").fetchone()[0])


async def early(store: SqliteStore, id: str, **more: object) -> tuple[Kept, asyncio.Future[Kept | Copy]]:
    known, kept = store.accept_early(new(id, expecting(), **more))
    told = await known
    assert isinstance(told, Kept)
    assert not kept.done()
    return told, kept


async def test_position_is_known_before_the_message_is_on_disk(store: SqliteStore, tmp_path: Path) -> None:
    told, kept = await early(store, "1")
    assert on_disk(tmp_path) == 0
    assert await store.stored(told.position) is not None, "who reads after that finds it"
    assert on_disk(tmp_path) == 1
    assert await kept == told


async def test_end_of_the_attempt_shares_the_sync_of_the_message(tmp_path: Path) -> None:
    groups: list[int] = []
    store = SqliteStore(tmp_path / "broker.db", committed=lambda _seconds, count: groups.append(count))
    told, kept = await early(store, "1")
    settled = await store.settle(settlement(told.position, comes=new("r", answers=(told.position, 1))))
    assert kept.done()
    assert groups == [2]
    (asked,) = await store.deliveries(told.position)
    assert (asked.state, asked.answer) == (State.DONE, AnswerState.ANSWERED)
    assert isinstance(settled.came, Kept)
    assert asked.answered_by == settled.came.position
    response = await store.stored(settled.came.position)
    assert response is not None
    assert response.answers == (told.position, 1)
    await store.close()


async def test_message_waits_for_what_follows_but_for_a_moment(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FOLLOWS", 0.001)
    _, kept = store.accept_early(new("1", expecting()))
    assert isinstance(await asyncio.wait_for(kept, 10), Kept)


async def test_copy_is_known_for_one_before_the_first_is_on_disk(store: SqliteStore) -> None:
    told, kept = await early(store, "1")
    known, _ = store.accept_early(new("1"))
    assert await known == Copy(position=told.position)
    assert not kept.done()


async def test_what_fails_after_it_fails_alone(store: SqliteStore) -> None:
    def broken(_tx: Transaction) -> None:
        raise LookupError("a bug")

    first, kept = await early(store, "1")
    second, kept_too = await early(store, "2")
    bad, good = store._writer.submit(broken), store.accept(new("3", delivery()))
    with pytest.raises(LookupError):
        await bad
    assert (await kept, await kept_too) == (first, second)
    third = await good
    assert isinstance(third, Kept)
    assert third.position == second.position + 1


async def test_what_fails_before_it_leaves_it_the_position_that_it_was_told(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for one of a group, and has room again for the next."""
    monkeypatch.setattr(writer, "GATHERED", 30.0)  # what follows belongs to the group, however long it takes
    monkeypatch.setattr(writer, "GAP", 30.0)
    fails = [False, True]

    def full(tx: Transaction) -> Kept:
        tx.last += 1
        if fails.pop():
            return Kept(position=tx.last, numbers=())
        raise sqlite3.OperationalError("database or disk is full")

    lost = store._writer.submit(full)
    pairs = [store.accept_early(new(id, expecting())) for id in "123"]
    told = [await known for known, _ in pairs]

    def broken(_tx: Transaction) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await store._writer.submit(broken)  # so that each of the group is done again, alone
    with pytest.raises(StoreError, match="full"):
        await lost
    assert [await kept for _, kept in pairs] == told


async def test_guess_that_was_wrong_after_it_costs_it_nothing(store: SqliteStore) -> None:
    before = await store.accept(new("0", expecting()))
    assert isinstance(before, Kept)
    await store.settle(settlement(before.position))
    told, kept = await early(store, "1")
    again = await store.settle(settlement(before.position, first=True))  # it is not the first, whatever it says
    assert again.changed == 0
    assert await kept == told


async def test_position_that_somebody_heard_of_is_not_given_to_another_message(
    store: SqliteStore, tmp_path: Path
) -> None:
    told, kept = await early(store, "1", body=bytes(200_000))
    with no_room(tmp_path):
        settled = store.settle(settlement(told.position, comes=new("r", answers=(told.position, 1)), first=True))
        with pytest.raises(StoreError):
            await kept
    assert (await asyncio.wait_for(settled, 10)).came is None, "nobody has asked"
    other = await store.accept(new("1", delivery()))
    assert isinstance(other, Kept), "its identity is free again"
    assert other.position > told.position
    assert (await store.deliveries(other.position))[0].state is State.WAITING


async def test_what_has_set_out_is_kept_when_the_store_closes(open_store: Open) -> None:
    store = open_store()
    told, kept = await early(store, "1")
    await store.close()
    assert await kept == told
    stored = await open_store().stored(told.position)
    assert stored is not None
    assert stored.message.fate is Fate.MESSAGE


async def test_more_than_a_group_is_written_in_the_order_in_which_it_came(store: SqliteStore) -> None:
    several = [store.accept_early(new(f"{n}", expecting())) for n in range(2 * writer.GROUP + 7)]
    last = store.accept(new("last", delivery()))
    told = [await known for known, _ in several]
    assert [one.position for one in told] == list(range(1, len(several) + 1))
    assert await asyncio.gather(*(kept for _, kept in several)) == told
    assert (await last).position == len(several) + 1


async def test_who_follows_at_once_does_not_wait_for_who_is_slow(store: SqliteStore) -> None:
    quick, kept = await early(store, "1")
    slow, kept_too = await early(store, "2")
    await asyncio.wait_for(store.settle(settlement(quick.position)), 10)
    assert await kept == quick
    assert await kept_too == slow

"""The embedded store by itself: group commits, positions, files of large bodies, full disks, other releases' files."""

from __future__ import annotations

import asyncio
import random
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from old_store import of_version_2
from store_values import DAY, NOW, delivery, ended, expecting, header, mail, new, quoting, settlement, step

from broker.core.delivery import State
from broker.core.hold import Hold
from broker.core.message import Fate
from broker.core.policy import Policy
from broker.store import Change, Copy, Kept, Note, Settlement, StoreError, claims, writer
from broker.store.bodies import LARGE
from broker.store.rows import id_digest
from broker.store.sqlite import SqliteStore
from broker.store.transaction import Transaction

Open = Callable[[], SqliteStore]
BIG = bytes(LARGE + 1)


def files(store: SqliteStore) -> set[str]:
    return store.bodies.names()


# -- groups


def work() -> None:
    """What else the loop has to do in a turn."""
    time.sleep(0.001)


async def test_what_comes_together_is_committed_together(tmp_path: Path) -> None:
    groups: list[int] = []
    store = SqliteStore(tmp_path / "a.db", committed=lambda _seconds, count: groups.append(count))
    await asyncio.gather(*(store.accept(new(f"{n}")) for n in range(100)))
    await store.close()
    assert sum(groups) == 100
    assert len(groups) < 20


async def test_what_a_busy_loop_brings_turn_by_turn_is_committed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GATHERS", 30.0)
    groups: list[int] = []
    store = SqliteStore(tmp_path / "a.db", committed=lambda _seconds, count: groups.append(count))
    asked = []
    for n in range(20):
        asked.append(store.accept(new(f"{n}")))
        work()
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*asked), 10)  # and then nothing else: it need not wait for its time
    await store.close()
    assert groups == [20]


async def test_loop_that_is_always_busy_hands_over_in_time(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    kept = store.accept(new("1"))
    until = time.monotonic() + 10
    while not kept.done() and time.monotonic() < until:
        work()
        await asyncio.sleep(0)
    assert kept.done()
    await store.close()


async def test_group_with_refusals_asks_the_store_nothing_for_them(store: SqliteStore, tmp_path: Path) -> None:
    """What a sick destination adds to a group is written with the rest of it, in a statement a table."""
    await asyncio.gather(*(store.accept(new(f"{n}")) for n in range(20)))
    statements: list[str] = []
    store._writer._db.set_trace_callback(statements.append)
    ends = (State.DEAD, State.WAITING)
    work = [
        store.settle(
            settlement(n, state=ends[n % 2], due=NOW, first=True, comes=new(None, mail("urn:s"), reports_on=n))
        )
        for n in range(1, 21)
    ]
    work += [store.accept(new(f"other {n}")) for n in range(20)]
    await asyncio.gather(*work)
    store._writer._db.set_trace_callback(None)
    assert not [one for one in statements if one.startswith("SELECT") and "FROM delivery" in one]
    kinds = [one.split("(")[0].split("SET")[0] for one in statements if one.startswith(("INSERT", "UPDATE"))]
    runs = [kind for number, kind in enumerate(kinds) if kinds[number - 1] != kind]
    assert kinds.count("UPDATE delivery ") == 20
    assert runs.count("UPDATE delivery ") <= statements.count("COMMIT"), "one run of them in each group"


async def test_bad_operation_fails_alone(store: SqliteStore) -> None:
    bad = new("bad", delivery(due=NOW, rule=None))  # no column takes it
    results = await asyncio.gather(
        *(store.accept(bad if n == 5 else new(f"{n}")) for n in range(10)), return_exceptions=True
    )
    assert [isinstance(result, Kept) for result in results] == [n != 5 for n in range(10)]
    assert isinstance(results[5], StoreError)
    assert (await store.counts()).waiting == 9


async def test_bug_in_an_operation_is_its_callers_alone(store: SqliteStore) -> None:
    def broken(_tx: Transaction) -> None:
        raise LookupError("a bug")

    first, bug, second = store.accept(new("1")), store._writer.submit(broken), store.accept(new("2"))
    assert isinstance(await first, Kept)
    assert isinstance(await second, Kept)
    with pytest.raises(LookupError):
        await bug


async def test_identity_of_a_message_that_failed_is_free_again(store: SqliteStore) -> None:
    with pytest.raises(StoreError):
        await store.accept(new("1", delivery(rule=None), quotes=("q",)))
    assert await store.find(("1", "q"), 10) == ()
    assert isinstance(await store.accept(new("1")), Kept)


async def test_policy_of_a_message_that_failed_is_not_taken_for_another(store: SqliteStore) -> None:
    for number in range(3):
        with pytest.raises(StoreError):
            await store.accept(new(f"{number}", delivery(policy=Policy(priority=number)), delivery("x", rule=None)))
        await store.accept(new(f"{number}", delivery(policy=Policy(priority=number + 10))))
    claimed = await store.claim("lane", {"urn:d": 10}, NOW + DAY, NOW + DAY, NOW + DAY)
    assert [one.policy.priority for one in claimed.deliveries] == [10, 11, 12]


async def test_must_operation_that_can_never_be_written_fails_and_holds_up_nobody(store: SqliteStore) -> None:
    await store.accept(new())
    bad = Settlement(change=ended(1), comes=new("r", delivery(rule=None)))
    with pytest.raises(StoreError):
        await asyncio.wait_for(store.settle(bad), 5)
    assert (await store.settle(settlement(1))).changed == 1


# -- what is taken for granted in a group, and is otherwise


async def test_delivery_that_ended_twice_in_one_group_ended_once(store: SqliteStore) -> None:
    await asyncio.gather(*(store.accept(new(f"{n}")) for n in range(5)))
    asked = [store.settle(settlement(position)) for position in (1, 2, 2, 3)]
    asked += [store.settle(settlement(2)), store.settle(settlement(4))]
    assert [(await one).changed for one in asked] == [1, 1, 0, 1, 0, 1]
    assert (await store.counts()).waiting == 1


async def test_retried_delivery_ends_with_all_its_story_beside_ordinary_ones(store: SqliteStore) -> None:
    await asyncio.gather(*(store.accept(new(f"{n}")) for n in range(3)))
    later = Change(position=2, numbers=(1,), state=State.WAITING, step=step("deferred"), due=NOW)
    await store.settle(Settlement(change=later))
    settled = [store.settle(settlement(position)) for position in (1, 2, 3)]
    assert [(await one).changed for one in settled] == [1, 1, 1]
    [retried] = await store.deliveries(2)
    assert (retried.attempts, [one.what for one in retried.steps]) == (2, ["deferred", "delivered"])


async def test_copy_of_what_is_in_the_table_alone_is_found_among_new_messages(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "YOUNG", 1)
    store = open_store()
    for n in range(4):  # each commit puts away what the one before it left
        await store.accept(new(f"{n}"))
    monkeypatch.setattr(claims, "YOUNG", 1_000)
    assert store._writer.claims.remembered(id_digest("0")) == []
    came = await asyncio.gather(
        store.accept(new("a")), store.accept(new("0")), store.accept(new("0", source="urn:other")),
        store.accept(new("b", exclusive="1")), store.accept(new("a")), store.accept(new("c")),
    )  # fmt: skip
    a, copy, others, exclusive, again, c = came
    assert copy == Copy(position=1)
    assert exclusive == Copy(position=2, exclusive=True)
    assert isinstance(a, Kept)
    assert again == Copy(position=a.position)
    assert isinstance(others, Kept)
    assert isinstance(c, Kept)
    assert await store.find(("0",), 10) == (others.position, 1)
    assert isinstance(await store.accept(new("b")), Kept), "what lost its second claim has not made its first"


async def test_what_comes_between_ordinary_messages_sees_those_before_it(store: SqliteStore) -> None:
    def waiting(tx: Transaction) -> int:
        return int(tx.db.execute("SELECT count(*) FROM delivery WHERE state = 0").fetchone()[0])

    asked = [store.accept(new("1")), store._writer.submit(waiting), store.accept(new("2"))]
    asked += [store._writer.submit(waiting), store.add(1, (delivery("x"),)), store._writer.submit(waiting)]
    seen = await asyncio.gather(*asked)
    assert [seen[place] for place in (1, 3, 5)] == [1, 2, 3]


async def test_whoever_asks_a_store_that_closes_is_answered(store: SqliteStore) -> None:
    first = store.accept(new("before"))
    closing = asyncio.ensure_future(store.close())
    asked = []
    while not closing.done():
        asked.append(store.accept(new(f"{len(asked)}")))
        await asyncio.sleep(0)
    done, late = await asyncio.wait([first, *asked, store.accept(new("after"))], timeout=10)
    assert not late
    assert isinstance(first.result(), Kept)
    assert all(isinstance(one.exception(), StoreError) or isinstance(one.result(), Kept) for one in done)


# -- positions


async def test_positions_grow_in_the_order_of_commits_and_are_never_given_twice(open_store: Open) -> None:
    store = open_store()
    kept = await asyncio.gather(*(store.accept(new(f"{n}")) for n in range(20)))
    assert [one.position for one in kept] == list(range(1, 21))
    await store.close()
    again = open_store()
    assert (await again.accept(new("next"))).position == 21


async def test_what_is_rolled_back_leaves_no_gap_and_no_claim_is_lost_for_it(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "YOUNG", 3)
    store = open_store()
    for n in range(12):
        bad = store.accept(new(f"bad{n}", delivery(rule=None)))
        twice = [store.settle(settlement(n)), store.settle(settlement(n))] if n else []
        kept = await store.accept(new(f"{n}"))
        await asyncio.gather(bad, *twice, return_exceptions=True)
        assert isinstance(kept, Kept)
        assert kept.position == n + 1
    await store.close()
    again = open_store()
    assert [await again.accept(new(f"{n}")) for n in range(12)] == [Copy(position=n + 1) for n in range(12)]


async def test_position_that_retention_took_away_is_not_given_again(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    for n in range(3):
        await store.accept(new(f"{n}"))
    await store.close()
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db, db:
        db.execute("INSERT INTO meta VALUES ('high', '3')")
        db.execute("DELETE FROM message WHERE position > 1")
    assert (await open_store().accept(new("next"))).position == 4


async def test_claims_are_known_after_a_restart(open_store: Open) -> None:
    store = open_store()
    await store.accept(new("1", quotes=("q",)))
    await store.close()
    again = open_store()
    assert await again.accept(new("1")) == Copy(position=1)
    assert await again.find(("q",), 10) == (1,)


async def test_claims_are_found_while_and_after_they_are_put_away(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "YOUNG", 20)
    monkeypatch.setattr(claims, "AT_ONCE", 7)
    store = open_store()
    for n in range(60):
        await store.accept(new(f"i{n}", quotes=(f"q{n}",)))
        if n % 7 == 0:
            with pytest.raises(StoreError):
                await store.accept(new(f"bad{n}", delivery(rule=None)))
        seen = random.Random(n).randint(0, n)
        assert await store.accept(new(f"i{seen}")) == Copy(position=(await store.find((f"q{seen}",), 5))[0])
    found = [await store.find((f"q{n}",), 5) for n in range(60)]
    assert all(len(one) == 1 for one in found)
    await store.close()
    again = open_store()
    assert [await again.find((f"q{n}",), 5) for n in range(60)] == found
    assert all([isinstance(await again.accept(new(f"i{n}")), Copy) for n in range(60)])


async def test_what_is_remembered_of_claims_stays_bounded_however_many_a_message_makes(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "YOUNG", 50)
    monkeypatch.setattr(claims, "AT_ONCE", 5)
    store, most = open_store(), 0
    for n in range(40):  # one quote is everybody's: the ids are fewer than the claims
        quotes = ("same", *(f"{n}-{quote}" for quote in range(30)))
        await asyncio.gather(*(store.accept(new(f"{n}.{m}", quotes=quotes)) for m in range(4)))
        most = max(most, store._writer.claims.count())
    assert 0 < most < 600, "of 5,120 claims"
    assert len(await store.find(("same",), 1000)) == 160
    assert len(await store.find(("7-7",), 1000)) == 4


async def test_store_keeps_its_key(open_store: Open) -> None:
    store = open_store()
    key = store.key
    await store.close()
    assert open_store().key == key


async def test_file_of_a_newer_release_is_refused(open_store: Open, tmp_path: Path) -> None:
    await open_store().close()
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="newer"):
        open_store()


async def test_file_of_an_older_release_is_brought_up_to_date_and_what_waits_there_is_found(tmp_path: Path) -> None:
    new_one = SqliteStore(tmp_path / "new.db")
    await new_one.close()
    store = SqliteStore(of_version_2(tmp_path / "old.db"))
    try:
        assert [(one.lane, one.key) for one in await store.schedule()] == [("lane", "urn:a")]
        claimed = await store.claim("lane", {"urn:a": 9}, NOW + DAY, NOW + DAY, NOW + DAY)
        assert [(one.position, one.priority) for one in claimed.deliveries] == [(1, 0), (2, 0)]
        await store.hold_lane(Hold(lane="lane", begins=NOW, ordered=NOW))
    finally:
        await store.close()
    assert tables(tmp_path / "old.db") == tables(tmp_path / "new.db")


def tables(path: Path) -> set[tuple[str, str, tuple[str, ...]]]:
    """What is in a file: kind, name and columns of each."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        return {
            (kind, name, tuple(sorted(str(row[-4:] if kind == "index" else row[1:5]) for row in rows)))
            for kind, name in found
            for rows in [db.execute(f"PRAGMA {'index' if kind == 'index' else 'table'}_xinfo({name})").fetchall()]
        }


async def test_closed_store_says_so(open_store: Open) -> None:
    store = open_store()
    await store.close()
    with pytest.raises(StoreError):
        await store.accept(new())


async def test_closing_writes_what_is_queued(open_store: Open) -> None:
    store = open_store()
    asked = [store.accept(new(f"{n}", body=BIG if n % 5 == 0 else b"{}")) for n in range(50)]
    await store.close()
    assert all(isinstance(one.result(), Kept) for one in asked)
    again = open_store()
    assert (await again.counts()).messages == 50
    assert len(files(again)) == 10


# -- large bodies


async def test_large_body_has_a_file_of_its_own_and_comes_back_as_it_was(store: SqliteStore) -> None:
    await store.accept(new("1", body=BIG))
    await store.accept(new("2", body=BIG[:LARGE]))
    assert len(files(store)) == 1
    assert [await store.body(n) for n in (1, 2)] == [BIG, BIG[:LARGE]]
    assert (await store.load((1, 2), 1000))[1][1] is None, "it is read when it is sent"


async def test_copy_of_a_large_message_leaves_no_file_behind(store: SqliteStore) -> None:
    await store.accept(new("1", body=BIG))
    assert isinstance(await store.accept(new("1", body=BIG)), Copy)
    with pytest.raises(StoreError):
        await store.accept(new("2", delivery(rule=None), body=BIG))
    await asyncio.sleep(0)
    await asyncio.to_thread(store._files.shutdown)
    assert len(files(store)) == 1


async def test_large_response_in_the_exchange_is_kept(store: SqliteStore) -> None:
    await store.accept(new("1", expecting()))
    settled = await store.settle(settlement(1, comes=new("r", body=BIG, answers=(1, 1), fate=Fate.ANSWER)))
    assert isinstance(settled.came, Kept)
    assert await store.body(2) == BIG
    assert len(files(store)) == 1


async def test_file_that_no_row_names_is_removed_at_start(open_store: Open) -> None:
    store = open_store()
    await store.accept(new("1", body=BIG))
    store.bodies.write(b"the crash came before its row")
    await store.close()
    again = open_store()
    assert len(files(again)) == 1
    assert await again.body(1) == BIG


# -- a full disk


@contextmanager
def no_room(tmp_path: Path) -> Iterator[None]:
    """Files may not grow beyond what they are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_full_disk_refuses_what_is_new_and_keeps_trying_what_is_not(store: SqliteStore, tmp_path: Path) -> None:
    for n in range(20):
        await store.accept(new(f"{n}"))
    with no_room(tmp_path):
        body = bytes(200_000)
        refused = await asyncio.gather(
            *(store.accept(new(f"x{n}", body=body)) for n in range(5)), return_exceptions=True
        )
        assert any(isinstance(one, StoreError) for one in refused)
        settled = [store.settle(settlement(n, comes=new(f"r{n}", body=body, answers=(n, 1)))) for n in range(1, 21)]
        await asyncio.sleep(0.1)
        assert not all(one.done() for one in settled)
        assert await store.stored(1) is not None, "what is kept can still be read"
    assert [(await asyncio.wait_for(one, 10)).changed for one in settled] == [1] * 20
    assert isinstance(await store.accept(new("after")), Kept)
    assert await integrity(tmp_path) == "ok"


async def test_large_body_that_finds_no_room_leaves_nothing_behind(store: SqliteStore, tmp_path: Path) -> None:
    await store.accept(new("1"))
    with no_room(tmp_path), pytest.raises(StoreError):
        await store.accept(new("2", body=bytes(20 << 20)))
    assert files(store) == set()
    assert isinstance(await store.accept(new("2", body=BIG)), Kept)


def page_count(tx: Transaction) -> int:
    return int(tx.db.execute("PRAGMA page_count").fetchone()[0])


async def test_page_limit_of_the_database_is_a_full_disk_too(store: SqliteStore) -> None:
    await store.accept(new("1"))
    pages = await store._writer.submit(page_count)
    await store._writer.submit(lambda tx: tx.db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone())
    with pytest.raises(StoreError):
        await store.accept(new("2", body=bytes(100_000)))
    settled = store.settle(settlement(1, comes=new("r", body=bytes(100_000))))
    await asyncio.sleep(0.1)
    assert not settled.done()
    await store._writer.submit(lambda tx: tx.db.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert (await asyncio.wait_for(settled, 10)).changed == 1


async def integrity(tmp_path: Path) -> str:
    def check() -> str:
        with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
            return str(db.execute("PRAGMA integrity_check").fetchone()[0])

    return await asyncio.to_thread(check)


# -- everything at once


@pytest.mark.parametrize("seed", range(4))
async def test_file_is_sound_after_any_operations(open_store: Open, tmp_path: Path, seed: int) -> None:
    store, dice = open_store(), random.Random(seed)
    for _ in range(40):
        asked = [_operation(store, dice) for _ in range(dice.randint(1, 30))]
        await asyncio.gather(*asked, return_exceptions=True)
    counts = await store.counts()
    await store.close()
    again = open_store()
    assert await again.counts() == counts
    assert await integrity(tmp_path) == "ok"


def _operation(store: SqliteStore, dice: random.Random) -> Any:
    position, at = dice.randint(1, 60), NOW + timedelta(seconds=dice.randint(0, 9999))
    body = BIG if dice.random() < 0.05 else bytes(dice.randint(0, 5000))
    some = (expecting("urn:d"), mail("urn:box"), delivery("urn:e", rule=None if dice.random() < 0.05 else "r"))
    message = new(f"{dice.randint(0, 80)}", *some[: dice.randint(1, 3)], body=body, quotes=(f"q{position}",))
    about = header(response=quoting(f"q{position}"))
    response = new(f"r{position}", mail("urn:s"), body=body, about=about, answers=(position, 1), fate=Fate.ANSWER)
    report = new(None, mail("urn:s"), reports_on=position)
    state = dice.choice([State.DONE, State.DEAD, State.WAITING, State.WITHDRAWN])
    change = settlement(position, dice.randint(1, 3), state=state, due=at, comes=dice.choice([None, response, report]))
    operations: list[Callable[[], Any]] = [
        lambda: store.accept(message),
        lambda: store.accept(message),
        lambda: store.accept(response),
        lambda: store.settle(change),
        lambda: store.add(position, (delivery(f"urn:{dice.randint(0, 5)}"),)),
        lambda: store.claim("lane", {"urn:d": dice.randint(1, 20), "urn:e": 3}, at, at, at),
        lambda: store.withdraw(position, at, "why", ()),
        lambda: store.redrive(position, 1, at, at + DAY),
        lambda: store.drop(position, 1, at, "why"),
        lambda: store.wake("lane", "urn:d", at, 5, {(position, 1)}),
        lambda: store.missing(position, 1, at, report),
        lambda: store.unread("urn:box", position, report),
        lambda: store.note(position, Note(at=at, what="note")),
        lambda: store.mark_read("urn:box", (position,), "reader", at),
        lambda: store.acknowledge(position, "reader", at),
    ]  # fmt: skip
    return dice.choice(operations)()


# -- streams


async def test_what_waits_in_a_store_of_the_tables_before_is_in_no_stream(tmp_path: Path) -> None:
    store = SqliteStore(of_version_2(tmp_path / "broker.db"))
    try:
        assert await store.places(1) == ()
        kept = await store.accept(new("b3", delivery(stream=b"s" * 16)))
        assert isinstance(kept, Kept)
        assert (kept.position, kept.behind) == (3, ())
        assert isinstance(await store.accept(new("b4", delivery(stream=b"s" * 16))), Kept)
        settled = await store.settle(settlement(1, 1))
        assert (settled.changed, settled.released) == (1, ())
        assert (await store.settle(settlement(3))).released == (("lane", "urn:d"),)
    finally:
        await store.close()


async def test_whose_turn_it_is_outlives_the_process(open_store: Open) -> None:
    store = open_store()
    for n in range(3):
        await store.accept(new(str(n), delivery(stream=b"s" * 16)))
    await store.close()
    store = open_store()
    assert [one.is_behind for n in (1, 2, 3) for one in await store.deliveries(n)] == [False, True, True]
    assert (await store.settle(settlement(1))).released == (("lane", "urn:d"),)

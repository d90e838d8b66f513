"""Subscriptions in the embedded store: what is written of them, numbers without a gap, the log and who follows it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from old_store import as_version_5
from store_subscriptions import ACTIVE, SECRET, event, notification, numbers, subscribed, subscription
from store_values import DAY, NOW, expecting, header, new, quoting, settlement

from broker.core.delivery import AnswerState, State
from broker.core.message import Fate
from broker.core.subscription.life import Life
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Status
from broker.core.subscription.topic import Interaction
from broker.store import Copy, Kept, NewDelivery, StoreError, log_reader
from broker.store.bodies import LARGE
from broker.store.sqlite import SqliteStore
from broker.store.telling import Heard, Notice, Subscribed

Open = Callable[[], SqliteStore]
ALL = 1 << 60
SECOND = timedelta(seconds=1)


async def kept(store: SqliteStore, identity: str, *deliveries: NewDelivery, **more: object) -> int:
    outcome = await store.accept(new(identity, *deliveries, **more))  # type: ignore[arg-type]
    assert isinstance(outcome, Kept)
    return outcome.position


# -- subscriptions


async def test_subscription_is_read_as_it_was_written_also_after_a_restart(open_store: Open) -> None:
    store = open_store()
    row = await store.subscribe(subscription(), ACTIVE, owner="hospital", at=NOW, most=1)
    assert row == Subscribed(key=1, subscription=subscription(), life=ACTIVE, owner="hospital", changed=NOW)
    assert await store.subscribed() == (row,)
    await store.close()
    assert await open_store().subscribed() == (row,)


async def test_where_there_are_as_many_as_may_be_no_other_is_kept(store: SqliteStore) -> None:
    for id in ("a", "b"):
        assert await store.subscribe(subscription(id), Life(), owner="", at=NOW, most=2)
    assert await store.subscribe(subscription("c"), Life(), owner="", at=NOW, most=2) is None
    assert [row.subscription.id for row in await store.subscribed()] == ["a", "b"]


async def test_client_that_writes_anew_finds_its_numbers_going_on(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    await store.tell(5, [event(5, key), event(5, key)])
    await store.move(key, ACTIVE, sent=1)
    later = subscription(endpoint="https://elsewhere.example")
    row = await store.rewrite(key, later, Life(), version=1, at=NOW + DAY)
    assert row is not None
    assert (row.subscription, row.life, row.version, row.changed) == (later, Life(), 2, NOW + DAY)
    assert (row.counted, row.sent, row.owner) == (2, 1, "party")
    assert (await store.tell(6, [event(6, key)])) == {key: 3}


async def test_of_two_that_write_the_same_version_one_wins(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    both = await asyncio.gather(
        store.rewrite(key, subscription(reason="first"), ACTIVE, version=1, at=NOW),
        store.rewrite(key, subscription(reason="second"), ACTIVE, version=1, at=NOW),
    )
    assert [row and row.subscription.reason for row in both] == ["first", None]
    assert await store.rewrite(99, subscription(), ACTIVE, version=1, at=NOW) is None


async def test_key_of_what_is_gone_is_never_given_again(open_store: Open) -> None:
    store = open_store()
    first = (await subscribed(store)).key
    await store.tell(1, [event(1, first)])
    assert await store.unsubscribe(first) is True
    assert await store.unsubscribe(first) is False
    assert await store.subscribed() == ()
    assert await store.heard(first, 0, ALL, 9) == ()
    assert await store.heard_between(first, None, None) is None
    await store.close()
    store = open_store()
    second = await subscribed(store)
    assert (second.key > first, second.counted) == (True, 0)
    assert await store.move(first, ACTIVE) is None
    assert await store.notice(first, notification(), Kind.HANDSHAKE) is None


async def test_id_that_is_taken_is_refused_without_a_word_of_what_was_written(store: SqliteStore) -> None:
    await subscribed(store)
    with pytest.raises(StoreError) as caught:
        await subscribed(store)
    assert SECRET not in repr(caught.value) + repr(caught.value.__cause__)
    assert len(await store.subscribed()) == 1


# -- events and their numbers


async def test_event_is_heard_as_it_was_told(store: SqliteStore) -> None:
    one, other = (await subscribed(store, "a")).key, (await subscribed(store, "b")).key
    told = event(
        3, one, other, at=NOW + SECOND, topic="http://topic|2", places=(2, 0, 5), interaction=Interaction.DELETE,
        relayed=True,
    )  # fmt: skip
    assert await store.tell(4, [event(2, other), told]) == {one: 1, other: 2}
    assert await store.heard(one, 0, ALL, 9) == (
        Heard(
            number=1, position=3, at=NOW + SECOND, topic="http://topic|2", places=(2, 0, 5),
            interaction=Interaction.DELETE, relayed=True,
        ),
    )  # fmt: skip
    plain, _ = await store.heard(other, 1, 2, 9)
    assert (plain.position, plain.places, plain.interaction, plain.relayed) == (2, (), None, False)
    assert {row.key: row.counted for row in await store.subscribed()} == {one: 1, other: 2}


async def test_numbers_are_read_from_one_to_another_and_no_more_than_asked(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    await store.tell(9, [event(position, key) for position in range(1, 10)])
    assert [one.number for one in await store.heard(key, 3, 6, 99)] == [3, 4, 5, 6]
    assert [one.number for one in await store.heard(key, 3, 9, 2)] == [3, 4]
    assert await store.heard(key, 10, ALL, 9) == ()


async def test_log_that_is_followed_again_tells_nothing_twice(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    assert await store.tell(7, [event(7, key)]) == {key: 1}
    assert await store.tell(7, [event(7, key)]) == {}
    assert await store.tell(6, [event(6, key)]) == {}
    assert await numbers(store, key) == [1]
    assert await store.told() == 7


async def test_who_is_named_twice_hears_once_and_who_is_gone_does_not_hear(store: SqliteStore) -> None:
    one, gone = (await subscribed(store, "a")).key, (await subscribed(store, "b")).key
    await store.unsubscribe(gone)
    assert await store.tell(1, [event(1, one, gone, one), event(1, gone), event(1)]) == {one: 1}
    assert await numbers(store, one) == [1]


async def test_what_happened_in_a_time_is_found_by_its_numbers(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    await store.tell(5, [event(n, key, at=NOW + n * SECOND) for n in range(1, 6)])
    assert await store.heard_between(key, NOW + 2 * SECOND, NOW + 4 * SECOND) == (2, 4)
    assert await store.heard_between(key, None, NOW + 2 * SECOND) == (1, 2)
    assert await store.heard_between(key, NOW + 5 * SECOND, None) == (5, 5)
    assert await store.heard_between(key, None, None) == (1, 5)
    assert await store.heard_between(key, NOW + 6 * SECOND, None) is None


async def test_position_that_was_told_begins_with_the_newest_and_stays_until_something_is_told(
    open_store: Open,
) -> None:
    store = open_store()
    newest = await kept(store, "b1")
    assert await store.told() == newest
    await kept(store, "b2")
    assert await store.told() == newest, "what came meanwhile is to be told"
    await store.close()
    store = open_store()
    assert await store.told() == newest
    await store.tell(newest + 1, ())
    assert await store.told() == newest + 1


# -- notices


async def test_notice_is_kept_as_a_message_together_with_the_word_that_it_is_under_way(open_store: Open) -> None:
    store = open_store()
    key = (await subscribed(store)).key
    first = await store.notice(key, notification(body=b"told"), Kind.EVENT, first=1, last=3)
    assert isinstance(first, Kept)
    await store.close()
    store = open_store()
    (row,) = await store.subscribed()
    assert row.notice == Notice(position=first.position, number=1, kind=Kind.EVENT, first=1, last=3)
    stored = await store.stored(first.position)
    assert stored is not None
    assert (stored.message.fate, await store.body(first.position)) == (Fate.NOTICE, b"told")
    assert await store.notice(key, notification(), Kind.HEARTBEAT) is None, "one at a time"
    assert await store.stored(first.position + 1) is None
    claimed = await store.claim("lane", {"urn:d": 9}, NOW + DAY, NOW + DAY, NOW + DAY)
    assert [one.position for one in claimed.deliveries] == [first.position], "it is carried like any message"


async def test_notice_under_a_name_that_was_claimed_is_not_under_way(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    first = await store.accept(notification("once"))
    assert isinstance(first, Kept)
    assert await store.notice(key, notification("once"), Kind.EVENT) == Copy(position=first.position)
    assert (await store.subscribed())[0].notice is None


async def test_large_notice_lies_in_a_file_and_one_that_is_not_kept_leaves_none(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    big = bytes(LARGE + 1)
    kept = await store.notice(key, notification(body=big), Kind.EVENT)
    assert isinstance(kept, Kept)
    assert await store.body(kept.position) == big
    assert await store.notice(key, notification(body=big), Kind.EVENT) is None
    await asyncio.sleep(0)  # what is done once it has come to nothing has its turn
    await asyncio.to_thread(store._files.shutdown)
    assert len(store.bodies.names()) == 1


async def test_subscription_moves_on_when_its_notice_has_ended(store: SqliteStore) -> None:
    key = (await subscribed(store, life=Life())).key
    await store.tell(9, [event(n, key) for n in range(1, 5)])
    kept = await store.notice(key, notification(), Kind.EVENT, first=1, last=3)
    assert isinstance(kept, Kept)
    moved = await store.move(key, ACTIVE, sent=2, ended=kept.position + 1)
    assert moved is not None
    assert moved.notice is not None, "it was another one that ended"
    moved = await store.move(key, ACTIVE, sent=3, ended=kept.position)
    assert moved is not None
    assert (moved.life, moved.counted, moved.sent, moved.notice) == (ACTIVE, 4, 3, None)
    moved = await store.move(key, Life(status=Status.ERROR))
    assert moved is not None
    assert (moved.life.status, moved.sent) == (Status.ERROR, 3), "what is not said stays"
    moved = await store.move(key, ACTIVE, sent=0)
    assert moved is not None
    assert moved.sent == 0, "they are asked for again"
    assert await store.subscribed() == (moved,)


async def test_notice_of_a_subscription_that_goes_is_a_message_like_others(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    kept = await store.notice(key, notification(), Kind.EVENT)
    assert isinstance(kept, Kept)
    await store.unsubscribe(key)
    assert (await store.settle(settlement(kept.position))).changed == 1
    assert await store.move(key, ACTIVE, ended=kept.position) is None


# -- the log


async def test_log_is_read_in_order_and_page_by_page_without_what_we_wrote_ourselves(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    first = await kept(store, "b1", expecting(), body=b"one")
    await store.accept(new(None, fate=Fate.REPORT, reports_on=first))
    await store.notice(key, notification(), Kind.EVENT)
    answer = new("b2", fate=Fate.ANSWER, body=b"two", answers=(first, 1), about=header(response=quoting("b1")))
    await store.accept(answer)
    last = await kept(store, "b3", body=b"three")
    page = await store.log(0, 2, 1 << 20, 1 << 20)
    assert [(one.position, one.body) for one in page.entries] == [(first, b"one"), (last - 1, b"two")]
    assert (page.reached, page.more) == (last - 1, True)
    page = await store.log(page.reached, 2, 1 << 20, 1 << 20)
    (entry,) = page.entries
    assert (entry.position, entry.accepted, entry.body, page.reached, page.more) == (last, NOW, b"three", last, False)
    assert entry.message.fate is Fate.MESSAGE
    assert await store.log(last, 2, 1 << 20, 1 << 20) == log_reader.LogPage(entries=(), reached=last, more=False)


async def test_log_passes_over_what_is_ours_at_its_end_so_that_nobody_looks_twice(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "LOOKED_AT", 3)
    first = await kept(store, "b1")
    for _ in range(7):
        await store.accept(notification())
    pages = [await store.log(first, 9, 1 << 20, 1 << 20)]
    while pages[-1].more:
        pages.append(await store.log(pages[-1].reached, 9, 1 << 20, 1 << 20))
    assert [page.reached - first for page in pages] == [3, 6, 7], "each page looks at so many"
    assert all(page.entries == () for page in pages)


async def test_log_brings_no_more_bytes_than_asked_and_no_large_bodies_but_one_message_at_least(
    store: SqliteStore,
) -> None:
    for number, size in enumerate((10, 10, 30, LARGE + 1, 10)):
        await kept(store, f"b{number}", body=bytes(size))
    page = await store.log(0, 99, 20, 20)
    assert [entry.body and len(entry.body) for entry in page.entries] == [10, 10, None, None]
    assert (page.reached, page.more) == (4, True)
    page = await store.log(0, 99, 1 << 20, 5)
    assert ([len(entry.body or b"") for entry in page.entries], page.more) == ([10], True)
    page = await store.log(3, 1, 1 << 20, 1 << 20)
    assert [len(entry.body or b"") for entry in page.entries] == [LARGE + 1], "from its file"


async def test_who_follows_the_log_while_many_write_misses_nothing(store: SqliteStore) -> None:
    came, seen = asyncio.Event(), list[int]()
    store.on_commit(came.set)

    async def follow() -> None:
        reached = 0
        while len(seen) < 600:
            came.clear()
            page = await store.log(reached, 50, 1 << 20, 1 << 20)
            seen.extend(entry.position for entry in page.entries)
            reached = page.reached
            if not page.more and len(seen) < 600:
                await came.wait()

    async def write(writer: int) -> None:
        for number in range(100):
            await kept(store, f"{writer}-{number}")

    async with asyncio.timeout(60):
        await asyncio.gather(follow(), *[write(writer) for writer in range(6)])
    assert seen == list(range(1, 601))


async def test_listeners_hear_once_of_what_is_committed_together_and_not_of_our_own_notices(
    store: SqliteStore,
) -> None:
    key = (await subscribed(store)).key
    heard: list[int] = []
    store.on_commit(lambda: heard.append(1))
    await asyncio.gather(*[store.accept(new(str(number))) for number in range(50)])
    await asyncio.sleep(0)
    assert len(heard) == 1
    await store.notice(key, notification(), Kind.EVENT)
    await store.tell(50, [event(1, key)])
    await store.settle(settlement(1))
    await asyncio.sleep(0)
    assert len(heard) == 1, "nothing of that is news"


# -- beside the others


async def test_notices_are_no_lines_of_the_receipt_ledger(store: SqliteStore) -> None:
    key = (await subscribed(store)).key
    dead = await store.notice(key, notification(), Kind.EVENT)
    assert isinstance(dead, Kept)
    await store.settle(settlement(dead.position, state=State.DEAD, answer=AnswerState.CLOSED))
    other = (await subscribed(store, "other")).key
    await store.notice(other, notification(), Kind.HANDSHAKE)
    span = await store.span(NOW - DAY, NOW + DAY)
    assert await store.sums(span, NOW) == ()
    assert (await store.lines(span, NOW, 9)).lines == ()
    await kept(store, "b1")
    span = await store.span(NOW - DAY, NOW + DAY)
    assert [(one.source, one.count) for one in await store.sums(span, NOW)] == [("urn:s", 1)]


async def test_store_of_version_5_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    store = SqliteStore(path, now=lambda: NOW)
    before = await kept(store, "b1", body=b"kept")
    await store.close()
    with closing(sqlite3.connect(path)) as db, db:
        as_version_5(db)
    store = SqliteStore(path, now=lambda: NOW)
    try:
        assert await store.told() == before
        assert await store.body(before) == b"kept"
        key = (await subscribed(store)).key
        assert await store.tell(before + 1, [event(before, key)]) == {key: 1}
    finally:
        await store.close()


async def test_newest_is_where_the_log_ends_also_with_messages_of_ours(store: SqliteStore) -> None:
    assert await store.newest() == 0
    kept = await store.accept(new("bundle:1"))
    assert isinstance(kept, Kept)
    assert await store.newest() == kept.position
    ours = await store.accept(notification())
    assert isinstance(ours, Kept)
    assert await store.newest() == ours.position > kept.position


# -- who may read the file


def modes(folder: Path) -> dict[str, int]:
    return {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()}


async def test_store_is_made_for_its_owner_only(open_store: Open, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store()
        await kept(store, "b1", body=bytes(LARGE + 1))
    finally:
        os.umask(before)
    made = modes(tmp_path)
    assert {made[f"broker.db{end}"] for end in ("", "-wal", "-shm", ".lock")} == {0o600}
    assert made["broker.db.bodies"] == 0o700


async def test_store_that_others_could_read_is_closed_to_them_and_its_group_keeps_what_it_was_given(
    open_store: Open, tmp_path: Path
) -> None:
    store = open_store()
    await kept(store, "b1", body=bytes(LARGE + 1))
    await store.close()
    (tmp_path / "broker.db").chmod(0o644)
    (tmp_path / "broker.db.bodies").chmod(0o755)
    open_store()
    made = modes(tmp_path)
    assert {made["broker.db"], made["broker.db-wal"]} == {0o640}
    assert made["broker.db.bodies"] == 0o750

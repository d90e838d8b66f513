"""How much of a backlog the store is asked for at once: little of a short one, much of a long one."""

from __future__ import annotations

from broker.flow.queue import FIRST, MOST, STEADY, Queue


def portions(queue: Queue, times: int) -> list[int]:
    seen = []
    for _ in range(times):
        seen.append(queue.portion)
        queue.answered(left_over=True)
    return seen


def test_who_comes_back_is_asked_for_a_little_at_a_time() -> None:
    seen = portions(Queue("urn:d"), STEADY)
    assert seen == [FIRST] * STEADY


def test_a_long_backlog_goes_in_ever_larger_portions_up_to_a_bound() -> None:
    seen = portions(Queue("urn:d"), 100_000)
    assert seen[::STEADY][:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert max(seen) == MOST
    assert sorted(seen) == seen


def test_portions_begin_anew_once_nothing_is_left_over() -> None:
    queue = Queue("urn:d")
    portions(queue, 10 * STEADY)
    queue.held_back = False
    queue.answered(left_over=False)
    assert queue.portion == FIRST
    assert not queue.held_back

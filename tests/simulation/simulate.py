"""Runs simulations: `make simulate ARGS="--seeds 20000"`, or one again with its history: `ARGS="--seed 7"`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mutations import MUTATIONS
from simulated_world import Result, prepare, simulate

AT_ONCE = 50  # seeds of one job
JOBS = 20  # of one process: what was killed is never wholly gone, and after some thousands costs half of the time
TIDY = 10  # seeds between two collections: what was killed is left lying until then


def begin(mutation: str | None) -> None:
    """What each process of the run does first."""
    prepare()
    if mutation is not None:
        MUTATIONS[mutation]()
    gc.disable()
    warnings.simplefilter("ignore")  # coroutines of those that were killed never come to their end
    sys.unraisablehook = lambda _what: None


def some(seeds: range) -> list[Result]:
    results = []
    for number, seed in enumerate(seeds, 1):
        result = simulate(seed)
        if not result.wrongs:
            result.history = []
        results.append(result)
        if number % TIDY == 0:
            gc.collect()
    return results


def many(asked: argparse.Namespace) -> Iterator[Result]:
    """Until the number or the time is reached."""
    until, end = time.monotonic() + asked.seconds, asked.first + asked.seeds
    with ProcessPoolExecutor(
        asked.cores, multiprocessing.get_context("spawn"), begin, (asked.mutation,), max_tasks_per_child=JOBS
    ) as pool:
        jobs: list[Future[list[Result]]] = []
        starts = iter(range(asked.first, end, AT_ONCE))
        while True:
            while len(jobs) < 2 * asked.cores and time.monotonic() < until and (at := next(starts, None)) is not None:
                jobs.append(pool.submit(some, range(at, min(at + AT_ONCE, end))))
            if not jobs:
                return
            yield from jobs.pop(0).result()


def again(seed: int, mutation: str | None) -> int:
    begin(mutation)
    result = simulate(seed)
    print("\n".join(result.history))
    print("\n".join(result.wrongs) or "nothing wrong")
    return bool(result.wrongs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed again, with its history")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="where they begin")
    parser.add_argument("--seconds", type=float, default=1e9, help="at most so long")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutation", choices=MUTATIONS, help="with a rule broken on purpose, until that is found")
    asked = parser.parse_args()
    if asked.seed is not None:
        return again(asked.seed, asked.mutation)
    begun, done, wrong, messages, deaths = time.perf_counter(), 0, 0, 0, 0
    for result in many(asked):
        done, messages, deaths = done + 1, messages + result.messages, deaths + result.deaths
        if result.wrongs:
            wrong += 1
            print(f"seed {result.seed}: " + "; ".join(result.wrongs[:3]))
            print(f'  its history: make simulate ARGS="--seed {result.seed}"', flush=True)
            if asked.mutation is not None:
                break
    took = time.perf_counter() - begun
    print(f"{done} seeds, {messages} messages, {deaths} crashes, {wrong} wrong; {done / took:.0f} seeds/s", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # a seed must come to the same in every process
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())

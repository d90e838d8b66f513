"""Runs simulations: `python tests/simulation/simulate.py --seeds 1000`, or one again with its history: `--seed 7`."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from simulated_world import Result, prepare, simulate

AT_ONCE = 50  # seeds of one job


def quiet() -> None:
    prepare()
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _what: None  # coroutines of processes that were killed are not ended in order


def some(seeds: range, seconds: float | None = None) -> list[Result]:
    quiet()
    gc.disable()
    begun, results = time.perf_counter(), []
    for seed in seeds:
        result = simulate(seed)
        if not result.wrongs:
            result.history = []
        results.append(result)
        if len(results) % 10 == 0:
            gc.collect()
    return results


def many(first: int, count: int, seconds: float, cores: int) -> Iterator[Result]:
    """Until the number or the time is reached."""
    until = time.monotonic() + seconds
    with ProcessPoolExecutor(cores) as pool:
        jobs = [pool.submit(some, range(at, min(at + AT_ONCE, first + count))) for at in range(first, first + count, AT_ONCE)]
        for job in jobs:
            if time.monotonic() > until:
                for rest in jobs:
                    rest.cancel()
                if job.cancelled():
                    return
            yield from job.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed again, with its history")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="at most so long")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    if asked.seed is not None:
        quiet()
        result = simulate(asked.seed)
        print("\n".join(result.history))
        print("\n".join(result.wrongs) or "nothing wrong")
        return bool(result.wrongs)
    begun, done, wrong, messages, deaths = time.perf_counter(), 0, 0, 0, 0
    for result in many(asked.first, asked.seeds, asked.seconds, asked.cores):
        done, messages, deaths = done + 1, messages + result.messages, deaths + result.deaths
        if result.wrongs:
            wrong += 1
            print(f"seed {result.seed}: " + "; ".join(result.wrongs[:3]), flush=True)
            print(f'  again, with its history: make simulate ARGS="--seed {result.seed}"')
    took = time.perf_counter() - begun
    print(f"{done} seeds, {messages} messages, {deaths} crashes, {wrong} wrong; {done / took:.0f} seeds/s")
    return bool(wrong)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # a seed must come to the same in every process
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())

"""The broker beside programs that do the same I/O and decide nothing, and beside RabbitMQ, turn by turn on one core.

usage: run.py [--quick] [--only a,b,c,d,e,f,g,h,i,j,k,l,m] [--rounds 3] [--seconds 4] [--json FILE] [--gate]

(a) accepted and durable, (b) accepted, delivered and settled, (c) what a synchronous hop adds, (d) processor time and
memory, (e) with a million messages stored before, (f) large messages, (g) a healthy receiver beside sick ones, (h) live
notifications to 5,000 WebSocket clients, (i) what each hop of three adds, (j) one event against 10,000 subscriptions,
(k) what subscriptions cost those who send, (l) one event told to 2,000 and 5,000 subscribers over WebSocket and by
rest-hook, (m) from queue to queue and from HTTP to a queue, beside one queue by itself.
Read the ratios: absolute figures belong to the machine and the minute. docs/benchmarks.md says what each part measures.
Loopback only, bounded in messages and time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contestants import DRIVER_CORE, HERE, SERVER_CORE
from floors import Floor, floors
from parts import PARTS
from rounds import Bench, Options, Point
from tables import report

LETTERS = "abcdefghijklm"
FULL = Options(
    parts=tuple(LETTERS), rounds=3, seconds=4.0, n=50_000, accept=(1, 16, 64, 256), deliver=64,
    synchronous=(1, 16, 64), large=16, stored=1_000_000, neighbours=16, hops=(16,), rates=(200, 1000), clients=5000,
    subscriptions=10_000, subscribed=1_000, told=(2000, 5000),
)  # fmt: skip
QUICK = dataclasses.replace(
    FULL, parts=tuple("abcdghijklm"), rounds=2, seconds=2.0, accept=(1, 64), synchronous=(1, 16), rates=(200,),
    clients=1000, told=(2000,),
)  # fmt: skip


def letters(text: str) -> tuple[str, ...]:
    chosen = {letter for letter in text.replace(" ", "").split(",") if letter}
    if not chosen or not chosen <= set(LETTERS):
        raise argparse.ArgumentTypeError(f"parts are {', '.join(LETTERS)}, as in --only a,b")
    return tuple(sorted(chosen))


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="(a) to (d), (g) to (m) at fewer points, in five minutes")
    parser.add_argument("--only", type=letters, help="these parts: a,b,c,d,e,f,g,h,i,j,k,l,m")
    parser.add_argument("--rounds", type=int, choices=range(1, 10), help="of each measurement; 3")
    parser.add_argument("--seconds", type=float, help="of load a round; 4")
    parser.add_argument("--n", type=int, help=f"messages a round, at most; {FULL.n}")
    parser.add_argument("--connections", type=int, help="this many everywhere, instead of 1 to 256")
    parser.add_argument("--stored", type=int, help=f"messages that are there before (e); {FULL.stored}")
    parser.add_argument(
        "--dir", type=Path, default=HERE.parent / ".build" / "bench", help="a folder on the disk to measure"
    )
    parser.add_argument("--json", type=Path, help="write every round here too")
    parser.add_argument("--gate", action="store_true", help="end with 1 if a floor is not met")
    return parser.parse_args()


def options_of(given: argparse.Namespace) -> Options:
    """What was asked for, over the quick or the full measure."""
    changes: dict[str, Any] = {
        key: value
        for key, value in {
            "parts": given.only,
            "rounds": given.rounds,
            "seconds": given.seconds,
            "n": given.n,
            "stored": given.stored,
        }.items()
        if value is not None
    }
    if given.connections:
        one = given.connections
        changes |= {"clients": one, "subscriptions": one, "subscribed": one, "told": (one,)}
        changes |= {
            "accept": (one,),
            "deliver": one,
            "synchronous": (one,),
            "large": one,
            "neighbours": one,
            "hops": (one,),
        }
    return dataclasses.replace(QUICK if given.quick else FULL, **changes)


def measure(bench: Bench) -> list[Point]:
    wanted = set(bench.options.parts)
    if "d" in wanted:
        wanted.add("b")  # read from the same rounds
    return [point for part, measured in PARTS.items() if part in wanted for point in measured(bench)]


def as_json(bench: Bench, points: list[Point], found: list[Floor], began: datetime) -> dict[str, Any]:
    return {
        "at": began.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": {"servers": sorted(SERVER_CORE), "driver": sorted(DRIVER_CORE)},
        "options": dataclasses.asdict(bench.options),
        "stored": bench.stored,
        "points": [dataclasses.asdict(point) for point in points],
        "floors": [dataclasses.asdict(floor) | {"met": floor.met} for floor in found],
        "disturbed": bench.disturbed,
        "full_cores": bench.busiest,
        "notes": bench.notes,
    }


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, and its files go
    given = asked()
    options = options_of(given)
    results = given.json.resolve() if given.json else None
    given.dir.mkdir(parents=True, exist_ok=True)
    folder = given.dir.resolve()
    os.chdir(HERE.parent)
    began, clock = datetime.now(UTC), time.monotonic()
    bench = Bench(options, folder)
    print(
        f"Python {platform.python_version()}, servers on core {SERVER_CORE}, driver on core {DRIVER_CORE}", flush=True
    )
    if SERVER_CORE == DRIVER_CORE:
        bench.note("there is one core only: servers and driver share it, and the figures say little")
    points = measure(bench)
    found = floors(points, options)
    print()
    print("\n".join(report(bench, points, found)))
    print(f"took {time.monotonic() - clock:.0f} s")
    if results:
        results.write_text(json.dumps(as_json(bench, points, found, began), indent=1))
        print(f"every round: {results}")
    if given.gate and not all(floor.met for floor in found):
        sys.exit(1)


if __name__ == "__main__":
    main()

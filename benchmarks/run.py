"""The broker beside programs that do the same I/O and decide nothing, turn by turn on the same core.

usage: run.py [--only mailbox deliver sync] [--rounds 3] [--seconds 4] [--size 4KiB] [--json FILE] [--quick]

Read the ratios: absolute figures belong to the machine and the minute. Each is a median over the rounds, and the
disk's own rate of syncs, measured between the rounds, stands beside what is durable. Loopback only, bounded in
messages and time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from contestants import DRIVER_CORE, HERE, SERVER_CORE, Contestant, bare, broker, free_port, program, proxy, receiver
from disk import syncs_per_second
from messages import MAILBOX, RECEIVER, SIZES

Seen = dict[str, Any]
OPERATION = "/fhir/$process-message"


class Bench:
    """The options, the folder on the disk that is measured, and the rates of syncs seen so far."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.size = SIZES[options.size]
        self.syncs: list[float] = []

    def load(self, on: Contestant, path: str, *, to: str, connections: int, receive: int = 0) -> Seen:
        """One round of the driver against one contestant, with what the contestant used meanwhile."""
        command = program("driver", "--url", f"http://127.0.0.1:{on.port}{path}", "--to", to, "--size", self.size)
        command += ["--connections", str(connections), "--n", str(self.options.n)]
        command += ["--seconds", str(self.options.seconds)]
        if receive:
            command += ["--receive", str(receive), "--settled", on.settled]
        before = on.cpu()
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=False,
            timeout=600,
            preexec_fn=lambda: os.sched_setaffinity(0, DRIVER_CORE),
        )
        if done.returncode:
            raise SystemExit(f"the driver failed against {on.name}; its log is {self.folder / on.name}.log")
        seen: Seen = json.loads(done.stdout)
        if not seen["answered"] or sum(seen["others"].values()) > seen["answered"] // 100:
            raise SystemExit(f"{on.name} did not take the load: {seen['others']} {seen['first_problem']}")
        # The warm-up is in the server's CPU too: four messages a connection.
        seen["cpu_s_per_1000"] = (on.cpu() - before) / (seen["answered"] + 4 * connections) * 1000
        seen["rss_mib"] = on.rss()
        return seen

    def rounds(self, turns: dict[str, Callable[[], Seen]]) -> dict[str, list[Seen]]:
        """A B A B A B: what the machine does besides falls on all alike."""
        seen: dict[str, list[Seen]] = {name: [] for name in turns}
        for number in range(self.options.rounds):
            self.syncs.append(syncs_per_second(self.folder))
            for name, turn in turns.items():
                seen[name].append(turn())
                print(f"  round {number + 1} {name:8}", _line(seen[name][-1]), flush=True)
        return seen


def _line(seen: Seen) -> str:
    return (
        f"{seen['per_second']:8,.0f}/s answered {seen['settled_per_second']:8,.0f}/s settled  "
        f"p50 {seen['p50_ms']:7.2f} p99 {seen['p99_ms']:7.2f} ms  {seen['cpu_s_per_1000']:.3f} CPU-s/1,000  "
        f"{seen['rss_mib']:4.0f} MiB  driver {seen['driver_cpu_s'] / seen['seconds_to_settled']:3.0%} of its core"
    )


def median(rounds: list[Seen], key: str) -> float:
    return float(statistics.median(seen[key] for seen in rounds))


def durable(bench: Bench, *, to: str, deliver: bool) -> dict[str, list[Seen]]:
    """Accepted and on disk, at 64 connections; with `deliver`, until delivered over HTTP and settled."""
    path = OPERATION + "?async=true"
    port = free_port()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
        peer = stack.enter_context(bare(folder, to=port if deliver else 0))
        ours = stack.enter_context(broker(folder, to=port))
        receive = port if deliver else 0

        def turn(on: Contestant) -> Callable[[], Seen]:
            return lambda: bench.load(on, path, to=to, connections=64, receive=receive)

        return bench.rounds({"bare": turn(peer), "broker": turn(ours)})


def synchronous(bench: Bench, connections: int) -> dict[str, list[Seen]]:
    """Request and response in one exchange: to a receiver on the servers' core, through a proxy, through us."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
        direct = stack.enter_context(receiver(folder, "direct", size=bench.size, core=SERVER_CORE))
        behind = stack.enter_context(receiver(folder, "behind", size=bench.size, core=DRIVER_CORE))
        plain = stack.enter_context(proxy(folder, to=behind.port))
        ours = stack.enter_context(broker(folder, to=behind.port))

        def turn(on: Contestant) -> Callable[[], Seen]:
            return lambda: bench.load(on, OPERATION, to=RECEIVER, connections=connections)

        return bench.rounds({"direct": turn(direct), "proxy": turn(plain), "broker": turn(ours)})


def report_durable(title: str, seen: dict[str, list[Seen]], rate: str) -> Seen:
    ours, theirs = median(seen["broker"], rate), median(seen["bare"], rate)
    cpu = {name: median(rounds, "cpu_s_per_1000") for name, rounds in seen.items()}
    print(f"{title}: {ours / theirs:.2f} of bare ({ours:,.0f}/s beside {theirs:,.0f}/s)")
    print(
        f"  CPU-s per 1,000: {cpu['broker']:.3f} beside {cpu['bare']:.3f} ({cpu['broker'] / cpu['bare']:.1f} x); "
        f"answer p99 {median(seen['broker'], 'p99_ms'):.1f} beside {median(seen['bare'], 'p99_ms'):.1f} ms; "
        f"RSS {median(seen['broker'], 'rss_mib'):.0f} beside {median(seen['bare'], 'rss_mib'):.0f} MiB"
    )
    return {"ratio_to_bare": ours / theirs, "broker_per_second": ours, "bare_per_second": theirs, "rounds": seen}


def report_synchronous(connections: int, seen: dict[str, list[Seen]]) -> Seen:
    found: Seen = {"rounds": seen}
    print(f"synchronous request, {connections} connection{'s' * (connections > 1)}:")
    for part in ("p50_ms", "p99_ms"):
        base = median(seen["direct"], part)
        added = {name: median(seen[name], part) - base for name in ("proxy", "broker")}
        found[part] = {"direct": base, "added": added}
        print(
            f"  {part[:3]} direct {base:.2f} ms; a plain proxy adds {added['proxy']:.2f} ms, "
            f"the broker {added['broker']:.2f} ms"
            + (f" ({added['broker'] / added['proxy']:.1f} x the proxy)" if added["proxy"] > 0 else "")
        )
    rates = {name: median(rounds, "per_second") for name, rounds in seen.items()}
    found["ratio_to_proxy"] = rates["broker"] / rates["proxy"]
    print(
        f"  rate: {found['ratio_to_proxy']:.2f} of the proxy "
        f"({rates['broker']:,.0f}/s beside {rates['proxy']:,.0f}/s, direct {rates['direct']:,.0f}/s)"
    )
    return found


def run(bench: Bench) -> Seen:
    reports: dict[str, Callable[[], Seen]] = {}
    for name, title, to in (
        ("mailbox", "accepted and durable, to a mailbox", MAILBOX),
        ("deliver", "accepted, delivered over HTTP and settled", RECEIVER),
    ):
        if name not in bench.options.only:
            continue
        print(f"{title}, {bench.options.size}, 64 connections", flush=True)
        seen = durable(bench, to=to, deliver=name == "deliver")
        if name == "deliver":
            reports["accept"] = partial(
                report_durable, "accepted and durable, while delivering over HTTP", seen, "per_second"
            )
            reports[name] = partial(report_durable, title, seen, "settled_per_second")
        else:
            reports[name] = partial(report_durable, title, seen, "per_second")
    if "sync" in bench.options.only:
        for connections in (1, 16):
            print(f"synchronous request, {bench.options.size}, {connections} connections", flush=True)
            seen = synchronous(bench, connections)
            reports[f"sync_{connections}"] = partial(report_synchronous, connections, seen)
    print("\nMedians of", bench.options.rounds, "rounds, turn by turn:")
    found: Seen = {name: report() for name, report in reports.items()}
    low, high = min(bench.syncs), max(bench.syncs)
    print(f"disk: {statistics.median(bench.syncs):,.0f} appends + fdatasync of 4 KiB a second ({low:,.0f}-{high:,.0f})")
    found["disk_syncs_per_second"] = bench.syncs
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ["mailbox", "deliver", "sync"]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 10))
    parser.add_argument("--seconds", type=float, default=4.0, help="of load a round")
    parser.add_argument("--n", type=int, default=50_000, help="messages a round, at most")
    parser.add_argument("--size", choices=list(SIZES), default="4KiB")
    parser.add_argument(
        "--dir", type=Path, default=HERE.parent / ".build" / "bench", help="a folder on the disk to measure"
    )
    parser.add_argument("--json", type=Path, help="write every round here too")
    parser.add_argument("--quick", action="store_true", help="one round of a second each: does it run at all?")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    options.dir.mkdir(parents=True, exist_ok=True)
    os.chdir(HERE.parent)
    print(f"Python {platform.python_version()}, servers on core {SERVER_CORE}, driver on core {DRIVER_CORE}")
    found = run(Bench(options, options.dir.resolve()))
    if options.json:
        found["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        found["options"] = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps(found, indent=1))
        print(f"every round: {options.json}")


if __name__ == "__main__":
    main()

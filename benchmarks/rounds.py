"""One measurement: contestants under the same load turn by turn, and what was seen of each."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from contestants import DRIVER_CORE, SERVER_CORE, Contestant, program
from disk import syncs_per_second

Seen = dict[str, Any]
Turn = Callable[[], Seen]
BYTES = 384 << 20  # of messages a round, at most: larger ones are fewer
FULL_CORE = 0.95  # of a core: from here the driver may be what is measured
CORES = SERVER_CORE | DRIVER_CORE
DISTURBED = 0.15  # of them, used by others: from here a round says little (the kernel's own work is some hundredths)
STAGE, LONGEST_STAGE = 2.0, 10.0  # times a round is a stage of (g): at 200/s, its p99 is that of 16 messages
WARM = 4  # messages a connection before the clock starts
AMQP_IN, AMQP_OUT = "bench.in", "bench.out"  # the queues of (m), on either side of the broker


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and for how long."""

    parts: tuple[str, ...]
    rounds: int
    seconds: float  # of load a round
    n: int  # messages a round, at most
    accept: tuple[int, ...]  # connections of (a) and (e)
    deliver: int  # connections of (b) and (m), and messages that RabbitMQ has under way
    synchronous: tuple[int, ...]  # connections of (c)
    large: int  # connections of (f)
    stored: int  # messages there before (e)
    neighbours: int  # connections of (g)
    hops: tuple[int, ...]  # connections of (i)
    rates: tuple[int, ...]  # of (g): messages a second to the healthy receiver
    clients: int  # of (h)
    subscriptions: int  # of (j)
    subscribed: int  # subscriptions of (k)
    told: tuple[int, ...]  # subscribers of (l)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Contestants measured against each other at one setting."""

    part: str
    name: str
    rate: str  # the figure that counts: "per_second", or "settled_per_second"
    seen: dict[str, list[Seen]]
    syncs: list[float] = field(default_factory=list)  # what the disk did in a second, before each round
    idle: dict[str, dict[str, float]] = field(default_factory=dict)  # memory before the first message

    def all(self, who: str, key: str) -> list[float]:
        return [float(seen[key]) for seen in self.seen[who]]

    def median(self, who: str, key: str) -> float:
        return statistics.median(self.all(who, key))

    def ratios(self, ours: str, theirs: str, key: str) -> list[float]:
        """Round by round, so that what the machine did meanwhile falls on both."""
        pairs = zip(self.all(ours, key), self.all(theirs, key), strict=True)
        return [mine / other if other else 0.0 for mine, other in pairs]


class Used:
    """Processor time from here on: of the cores that are measured on, and of the drivers that were waited for."""

    def __init__(self) -> None:
        self.at, self.all, self.drivers = time.monotonic(), self._all(), self._drivers()

    @staticmethod
    def _all() -> float:
        cores = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if number in CORES]
        return float(sum(t.user + t.nice + t.system + t.irq + t.softirq + t.steal for t in cores))

    @staticmethod
    def _drivers() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    def by_others(self, servers: float) -> float:
        """The share of those cores that was used meanwhile by neither the servers nor the driver."""
        ours = servers + self._drivers() - self.drivers
        return (self._all() - self.all - ours) / (time.monotonic() - self.at) / len(CORES)


class Bench:
    """The options, the folder on the disk that is measured, and what is to be said beside the figures."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.notes: list[str] = []  # what a reader of the tables has to know
        self.disturbed = 0.0  # the largest share of those cores that others used during a round
        self.busiest: dict[str, float] = {}  # share of its core that the driver used, by contestant, where it was full
        self.stored: Seen = {}

    def note(self, text: str) -> None:
        if text not in self.notes:
            print(f"  NOTE: {text}", flush=True)
            self.notes.append(text)

    def load(
        self,
        on: Contestant,
        path: str,
        *,
        to: str,
        connections: int,
        size: int,
        receive: int = 0,
        beside: Contestant | None = None,
        warm: int = WARM,
        every: int = 0,
    ) -> Seen:
        """One round of the driver against one contestant, with what the contestant used meanwhile.

        `beside` is another server on the driver's core: what it uses the driver cannot have.
        """
        command = program("driver", "--url", f"http://127.0.0.1:{on.port}{path}", "--to", to)
        if every:
            command += ["--every", str(every)]
        if receive:
            command += ["--receive", str(receive), "--settled", on.settled]
        return self.drive(command, on, connections=connections, size=size, beside=beside, warm=warm)

    def load_amqp(
        self, on: Contestant, *, under_way: int, size: int, through: Contestant | None = None, http: str = ""
    ) -> Seen:
        """The same against RabbitMQ: from the confirm to the consumer; `through` a broker that consumes and publishes,
        or with `http` is posted to at this path and publishes."""
        command = program("amqp_driver", "--url", f"amqp://guest:guest@127.0.0.1:{on.port}/")
        if through is None:
            return self.drive(command, on, connections=under_way, size=size)
        command += ["--into", AMQP_IN, "--out-of", AMQP_OUT, "--settled", through.settled]
        if http:
            command += ["--http", f"http://127.0.0.1:{through.port}{http}"]
        return self.drive(command, through, connections=under_way, size=size, behind=on)

    def drive(
        self,
        command: list[str],
        on: Contestant,
        *,
        connections: int,
        size: int,
        beside: Contestant | None = None,
        behind: Contestant | None = None,
        warm: int = WARM,
    ) -> Seen:
        """`behind` is one more server, whose core the driver does not share."""
        most = min(self.options.n, max(BYTES // size, connections))
        command += ["--connections", str(connections), "--size", str(size), "--n", str(most)]
        command += ["--seconds", str(self.options.seconds), "--warm", str(warm)]
        before, before_beside, before_all = on.cpu(), beside.cpu() if beside else 0.0, Used()
        before_behind = behind.cpu() if behind else 0.0
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=False,
            timeout=600,
            preexec_fn=lambda: os.sched_setaffinity(0, DRIVER_CORE),
        )
        if done.returncode:
            raise SystemExit(f"the driver failed against {on.name}; what the server said is in {on.log}")
        seen: Seen = json.loads(done.stdout)
        if not seen["answered"] or sum(seen["others"].values()) > seen["answered"] // 100:
            raise SystemExit(f"{on.name} did not take the load: {seen['others']} {seen['first_problem']}")
        # The warm-up is in the servers' CPU too.
        share = seen["answered"] / (seen["answered"] + warm * connections)
        seen["cpu_s_per_1000"] = (on.cpu() - before) * share / seen["answered"] * 1000
        used_beside = (beside.cpu() - before_beside) * share if beside else 0.0
        used_behind = behind.cpu() - before_behind if behind else 0.0
        self.disturbed = max(self.disturbed, before_all.by_others(on.cpu() - before + used_beside + used_behind))
        seen["driver_busy"] = (seen["driver_cpu_s"] + used_beside) / seen["seconds_to_settled"]
        seen |= on.memory()
        if seen["driver_busy"] > FULL_CORE:
            self.busiest[on.name] = max(self.busiest.get(on.name, 0.0), seen["driver_busy"])
        return seen

    def point(self, part: str, name: str, rate: str, turns: dict[str, Turn], *idle: Contestant) -> Point:
        """A B C, B C A, C A B: what the machine does besides falls on all alike."""
        print(f"({part}) {name}", flush=True)
        memory = {one.name: one.memory() for one in idle}
        syncs: list[float] = []
        seen = self._rounds(turns, _line, before=lambda: syncs.append(syncs_per_second(self.folder)))
        return Point(part=part, name=name, rate=rate, seen=seen, syncs=syncs, idle=memory)

    def _rounds(
        self, turns: dict[str, Turn], line: Callable[[Seen], str], before: Callable[[], None] = lambda: None
    ) -> dict[str, list[Seen]]:
        """All turns, round by round, each round in another order; `before` each of them."""
        seen: dict[str, list[Seen]] = {who: [] for who in turns}
        order = list(turns)
        for number in range(self.options.rounds):
            before()
            for who in order:
                seen[who].append(one := turns[who]())
                print(f"  round {number + 1} {who:9}", line(one), flush=True)
            order = order[1:] + order[:1]
        return seen

    def _clients(self, command: list[str], on: Contestant) -> Any:
        """One run of a program of clients beside one server, on the driver's core; what it printed."""
        used, all_before = on.cpu(), Used()
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=False,
            timeout=300,
            preexec_fn=lambda: os.sched_setaffinity(0, DRIVER_CORE),
        )
        if done.returncode:
            raise SystemExit(f"{Path(command[1]).stem} failed against {on.name}; what the server said is in {on.log}")
        self.disturbed = max(self.disturbed, all_before.by_others(on.cpu() - used))
        return json.loads(done.stdout)

    def neighbours(self, on: Contestant, url: str, listening: list[int]) -> Seen:
        """One run of the load on a healthy receiver and its neighbours: what was seen, stage by stage."""
        names = ",".join([*map(str, self.options.rates), "max"])
        command = program("neighbours", "--url", url, "--listen", *listening, "--stages", names)
        command += ["--seconds", str(min(self.options.seconds * STAGE, LONGEST_STAGE)), "--n", str(self.options.n)]
        command += ["--connections", str(self.options.neighbours)]
        before = on.cpu()
        stages = self._clients(command, on)
        return {"stages": stages, "cpu_s": on.cpu() - before, **on.memory()}

    def follow(self, on: Contestant, *, broker: bool) -> Seen:
        """One run of the clients of (h) against one server."""
        command = program("followers", "--port", on.port, "--pid", on.watched.pid, "--clients", self.options.clients)
        seen: Seen = self._clients(command + ["--broker"] * broker, on)
        return seen

    def followed(self, part: str, turns: dict[str, Turn]) -> Point:
        """Turn by turn as in `point`."""
        name = f"{self.options.clients:,} clients"
        print(f"({part}) {name}", flush=True)
        seen = self._rounds(turns, lambda one: f"{_told(one)}  {one['frames_per_second']:9,.0f} frames/s")
        return Point(part=part, name=name, rate="frames_per_second", seen=seen)

    def tell(self, on: Contestant, tokens: Path, *, before: float, hook: int) -> Seen:
        """One run of the subscribers of (l); `hook` is the port of their rest-hook, or 0 for sockets."""
        command = program(
            "subscribers", "--port", on.port, "--http", on.http, "--pid", on.watched.pid, "--tokens", tokens,
            "--before", before, "--hook", hook,
        )  # fmt: skip
        seen: Seen = self._clients(command, on)
        return seen

    def told(self, part: str, count: int, turns: dict[str, Turn]) -> Point:
        """Turn by turn as in `point`."""
        name = f"{count:,} subscribers"
        print(f"({part}) {name}", flush=True)
        seen = self._rounds(turns, _told)
        return Point(part=part, name=name, rate="per_second", seen=seen)

    def matched(self, part: str, turns: dict[str, Turn]) -> Point:
        """Turn by turn as in `point`."""
        name = f"{self.options.subscriptions:,} subscriptions"
        print(f"({part}) {name}", flush=True)
        seen = self._rounds(
            turns, lambda one: f"p50 {one['p50_ms']:7.3f} p99 {one['p99_ms']:7.3f} ms  {one['heard']:8,.0f} hear"
        )
        return Point(part=part, name=name, rate="per_second", seen=seen)

    def match(self, kind: str) -> Seen:
        """One run of messages against the subscriptions of (j), in a process of its own."""
        done = subprocess.run(
            program("matching", "--kind", kind, "--count", self.options.subscriptions),
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
            preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORE),
        )
        seen: Seen = json.loads(done.stdout)
        return seen

    def stages(self, part: str, turns: dict[str, Turn]) -> list[Point]:
        """Turn by turn as in `point`; each turn brings a row for each of several points."""
        seen: dict[str, dict[str, list[Seen]]] = {}
        order = list(turns)
        for number in range(self.options.rounds):
            for who in order:
                for one in (turn := turns[who]())["stages"]:
                    seen.setdefault(one["stage"], {}).setdefault(who, []).append(turn | one)
                    line = f"{one['per_second']:8,.0f}/s arrived  p50 {one['p50_ms']:7.2f} p99 {one['p99_ms']:7.2f} ms"
                    print(f"  round {number + 1} {who:8} at {one['stage']:>4}/s {line}", flush=True)
            order = order[1:] + order[:1]
        return [
            Point(part=part, name=stage, rate="per_second", seen={who: rows[who] for who in turns})
            for stage, rows in seen.items()
        ]


def _told(seen: Seen) -> str:
    return f"{seen['kib_idle']:5.1f} KiB each  {seen['all_ms']:7.1f} ms to all"


def _line(seen: Seen) -> str:
    return (
        f"{seen['per_second']:8,.0f}/s answered {seen['settled_per_second']:8,.0f}/s settled  "
        f"p50 {seen['p50_ms']:7.2f} p99 {seen['p99_ms']:7.2f} ms  {seen['cpu_s_per_1000']:.3f} CPU-s/1,000  "
        f"{seen['rss_mib']:4.0f} MiB  driver's core {seen['driver_busy']:4.0%}"
    )

"""What is measured, part by part; each part is a list of points, and a point is contestants side by side."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

from contestants import (
    DRIVER_CORE,
    SERVER_CORE,
    Contestant,
    bare,
    broker,
    fanout,
    free_port,
    has_rabbitmq,
    program,
    proxy,
    rabbitmq,
    receiver,
)
from fill import forget
from messages import MAILBOX, NEIGHBOURS, PATIENT, RECEIVER, SIZES, SOUGHT_TOPIC, WELL
from rounds import AMQP_IN, AMQP_OUT, WARM, Bench, Point, Seen, Turn

OPERATION = "/fhir/$process-message"
KEEP = OPERATION + "?async=true"
HOPS = 3  # brokers in a row
ORDINARY = SIZES["4KiB"]
ONE_IN = 100  # messages is one that somebody subscribed to, in (k)
SEED = 4_000  # messages of each kind that the broker itself keeps before they are multiplied
ROOM = 7 << 10  # bytes on disk for each stored message, its indexes and the log of the load included
TOLD_BY_HOOK = 2000  # of (l): more than that are only asked what a socket costs
SPARE = 4 << 30  # bytes that stay free besides


@contextlib.contextmanager
def fresh(bench: Bench) -> Iterator[Path]:
    """A folder on the disk that is measured, for as long as a point is measured."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        yield Path(folder)


def connections(count: int) -> str:
    return f"{count} connection{'s' * (count > 1)}"


def keep(bench: Bench, on: Contestant, count: int, size: int = ORDINARY, *, warm: int = WARM) -> Turn:
    """Accepted and on disk: the messages are for a mailbox."""
    return lambda: bench.load(on, KEEP, to=MAILBOX, connections=count, size=size, warm=warm)


def carry(bench: Bench, on: Contestant, count: int, port: int, size: int = ORDINARY) -> Turn:
    """Accepted, delivered over HTTP to the driver, and noted as delivered."""
    return lambda: bench.load(on, KEEP, to=RECEIVER, connections=count, size=size, receive=port)


def accept_point(bench: Bench, part: str, count: int, size: int = ORDINARY, title: str = "") -> Point:
    with fresh(bench) as folder, bare(folder) as peer, broker(folder, to=free_port()) as ours:
        turns = {"bare": keep(bench, peer, count, size), "broker": keep(bench, ours, count, size)}
        return bench.point(part, title + connections(count), "per_second", turns, peer, ours)


def deliver_point(bench: Bench, part: str, count: int, size: int = ORDINARY, title: str = "") -> Point:
    port = free_port()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(fresh(bench))
        peer = stack.enter_context(bare(folder, to=port))
        ours = stack.enter_context(broker(folder, to=port))
        running = [peer, ours]
        turns = {"bare": carry(bench, peer, count, port, size), "broker": carry(bench, ours, count, port, size)}
        if has_rabbitmq():
            rabbit = stack.enter_context(rabbitmq(folder))
            running.append(rabbit)
            turns["rabbitmq"] = lambda: bench.load_amqp(rabbit, under_way=count, size=size)
        else:
            bench.note("RabbitMQ is not installed and is left out: apt-get install rabbitmq-server, or make bench")
        return bench.point(part, title + connections(count), "settled_per_second", turns, *running)


def accepting(bench: Bench) -> list[Point]:
    """(a) accepted and durable."""
    return [accept_point(bench, "a", count) for count in bench.options.accept]


def delivering(bench: Bench) -> list[Point]:
    """(b) accepted, delivered and settled; (d) is read from the same rounds."""
    return [deliver_point(bench, "b", bench.options.deliver)]


def synchronous(bench: Bench) -> list[Point]:
    """(c) request and response in one exchange: to a receiver on the servers' core, through a proxy, through us."""
    points = []
    for count in bench.options.synchronous:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(fresh(bench))
            direct = stack.enter_context(receiver(folder, "direct", size=ORDINARY, core=SERVER_CORE))
            behind = stack.enter_context(receiver(folder, "behind", size=ORDINARY, core=DRIVER_CORE))
            plain = stack.enter_context(proxy(folder, to=behind.port))
            ours = stack.enter_context(broker(folder, to=behind.port))

            def ask(on: Contestant, beside: Contestant | None, count: int = count) -> Turn:
                return lambda: bench.load(on, OPERATION, to=RECEIVER, connections=count, size=ORDINARY, beside=beside)

            turns = {"direct": ask(direct, None), "proxy": ask(plain, behind), "broker": ask(ours, behind)}
            points.append(bench.point("c", connections(count), "per_second", turns))
    return points


def hops(bench: Bench) -> list[Point]:
    """(i) the same over one broker and over three in a row, which take turns on the two cores."""
    points = []
    for count in bench.options.hops:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(fresh(bench))
            direct = stack.enter_context(receiver(folder, "direct", size=ORDINARY, core=SERVER_CORE))
            last = stack.enter_context(receiver(folder, "last", size=ORDINARY, core=DRIVER_CORE))
            rows: dict[str, list[Contestant]] = {"direct": [direct]}
            for name, length in (("one", 1), ("three", HOPS)):
                row: list[Contestant] = []
                for place in range(length, 0, -1):  # the one that is asked is started last
                    own = folder / f"{name}-{place}"
                    own.mkdir()
                    core = SERVER_CORE if place % 2 else DRIVER_CORE
                    to = row[-1].port if row else last.port
                    row.append(stack.enter_context(broker(own, to=to, name=name, place=place, core=core)))
                rows[name] = row

            def ask(row: list[Contestant], count: int = count, beside: Contestant = last) -> Turn:
                return lambda: bench.load(
                    row[-1], OPERATION, to=RECEIVER, connections=count, size=ORDINARY,
                    beside=None if row[0].name == "direct" else beside,
                )  # fmt: skip

            turns = {name: ask(row) for name, row in rows.items()}
            points.append(bench.point("i", connections(count), "per_second", turns))
    return points


def large(bench: Bench) -> list[Point]:
    """(f) the same with large messages."""
    points = []
    for name in ("100KiB", "1MiB"):
        title = f"{name.replace('K', ' K').replace('M', ' M')}, "
        points.append(accept_point(bench, "f", bench.options.large, SIZES[name], f"accepted, {title}"))
        points.append(deliver_point(bench, "f", bench.options.large, SIZES[name], f"delivered, {title}"))
    return points


def stored(bench: Bench) -> list[Point]:
    """(e) the same with a long past in the store, beside a broker whose store is empty."""
    need = bench.options.stored * ROOM + SPARE
    free = shutil.disk_usage(bench.folder).free
    if free < need:
        bench.note(
            f"(e) IS SKIPPED: it needs {need / (1 << 30):.0f} GiB in {bench.folder}, {free / (1 << 30):.0f} are free"
        )
        return []
    with fresh(bench) as past:
        fill(bench, past)
        points = [beside_empty(bench, past, count, deliver=False) for count in bench.options.accept]
        points.append(beside_empty(bench, past, bench.options.deliver, deliver=True))
        points.append(cold_and_warm(bench, past, bench.options.deliver))
        return points


def fill(bench: Bench, folder: Path) -> None:
    """The broker keeps and delivers some thousand messages of the driver's; those are multiplied."""
    port = free_port()
    each = max(1, min(SEED, bench.options.stored // 20))
    with broker(folder, to=port) as ours:
        for to in (MAILBOX, RECEIVER):
            command = program("driver", "--url", f"http://127.0.0.1:{ours.port}{KEEP}", "--to", to, "--n", each)
            command += ["--warm", "0", "--seconds", "60"]
            if to == RECEIVER:
                command += ["--receive", str(port), "--settled", ours.settled]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=300)
    command = program("fill", "--db", folder / "broker.db", "--n", bench.options.stored)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=1800)
    bench.stored = json.loads(done.stdout)
    print(
        f"(e) {bench.stored['stored']:,} messages stored in {bench.stored['seconds']:.0f} s, "
        f"{bench.stored['bytes'] / (1 << 30):.1f} GiB",
        flush=True,
    )


def beside_empty(bench: Bench, past: Path, count: int, *, deliver: bool) -> Point:
    port = free_port()
    with (
        fresh(bench) as folder,
        broker(folder, to=port, name="empty") as new,
        broker(past, to=port, name="stored") as old,
    ):
        turns: dict[str, Turn] = {}
        for one in (new, old):
            turns[one.name] = carry(bench, one, count, port) if deliver else keep(bench, one, count)
        title = ("delivered, " if deliver else "accepted, ") + connections(count)
        return bench.point("e", title, "settled_per_second" if deliver else "per_second", turns, new, old)


def cold_and_warm(bench: Bench, past: Path, count: int) -> Point:
    """Started anew, with and without what the system remembers of the file; no message before the clock starts."""

    def turn(name: str, before: Callable[[], None]) -> Turn:
        def started() -> Seen:
            before()
            with broker(past, to=free_port(), name=name) as ours:
                return keep(bench, ours, count, warm=0)() | {"start_s": ours.started}

        return started

    database = past / "broker.db"
    turns = {"warm": turn("warm", lambda: None), "cold": turn("cold", lambda: forget(database))}
    return bench.point("e", f"first messages after a start, {connections(count)}", "per_second", turns)


def neighbours(bench: Bench) -> list[Point]:
    """(g) a healthy receiver and four sick ones, with addresses of their own or behind one gateway."""
    gateway, own = free_port(), {name: free_port() for name in (WELL, *NEIGHBOURS)}
    dead = socket.socket()
    dead.bind(("127.0.0.1", 0))  # and nothing listens: nobody else can have it

    def at(port: int, name: str) -> str:
        return f"http://127.0.0.1:{port}/fhir/{name}"

    own["dead"] = dead.getsockname()[1]
    listening = [gateway, *(port for name, port in own.items() if name != "dead")]
    theirs: dict[str, Callable[[str], str]] = {
        "alone": lambda name: "mailbox:",  # the same is accepted, and goes nowhere
        "well": lambda name: at(own["refuse"], "fine"),  # the same goes to a receiver that takes it
        "beside": lambda name: at(own[name], name),
        "gateway": lambda name: at(gateway, name),
    }

    def turn(who: str, where: Callable[[str], str]) -> Turn:
        def run() -> Seen:
            """A daemon of its own each time: what waits from before is nobody else's load."""
            well = at(gateway if who == "gateway" else own[WELL], WELL)
            others = {endpoint: where(name) for name, endpoint in NEIGHBOURS.items()}
            with fresh(bench) as folder, broker(folder, to=well, name=who, neighbours=others) as ours:
                return bench.neighbours(ours, f"http://127.0.0.1:{ours.port}{KEEP}", listening)

        return run

    with dead:
        return bench.stages("g", {who: turn(who, where) for who, where in theirs.items()})


def followers(bench: Bench) -> list[Point]:
    """(h) live notifications to thousands of WebSocket clients, each server started anew for each round."""

    def bare_turn() -> Seen:
        with fresh(bench) as folder, fanout(folder) as one:
            return bench.follow(one, broker=False)

    def turn() -> Seen:
        with fresh(bench) as folder, broker(folder, to="mailbox:", websocket=True) as one:
            return bench.follow(one, broker=True)

    return [bench.followed("h", {"bare": bare_turn, "broker": turn})]


def matching(bench: Bench) -> list[Point]:
    """(j) one message against thousands of subscriptions, which filter in several ways."""
    kinds = ("value", "rules", "all", "different")
    return [bench.matched("j", {kind: partial(bench.match, kind) for kind in kinds})]


def subscribed(bench: Bench) -> list[Point]:
    """(k) the same accepted with subscriptions as without any: one message in a hundred is for one of them."""
    count = bench.options.deliver
    with contextlib.ExitStack() as stack:
        none, some = [
            stack.enter_context(
                broker(stack.enter_context(fresh(bench)), to="mailbox:", name=name, subscribed=name == "some")
            )
            for name in ("none", "some")
        ]
        subscribe(some, bench.options.subscribed)

        def turn(on: Contestant) -> Turn:
            return lambda: bench.load(on, KEEP, to=MAILBOX, connections=count, size=ORDINARY, every=ONE_IN)

        turns = {"none": turn(none), "some": turn(some)}
        return [bench.point("k", connections(count), "per_second", turns, none, some)]


def subscribe(on: Contestant, count: int) -> None:
    """The first is for the patient of all messages, the others for others."""
    for number in range(count):
        resource = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "benchmark",
            "topic": SOUGHT_TOPIC,
            "filterBy": [{"filterParameter": "patient", "value": PATIENT if number == 0 else f"Patient/{number}"}],
            "channelType": {"code": "websocket"},
            "contentType": "application/fhir+json",
            "content": "id-only",
        }
        media = {"Content-Type": "application/fhir+json; fhirVersion=5.0"}
        url = f"http://127.0.0.1:{on.port}/fhir/Subscription"
        with urlopen(Request(url, json.dumps(resource).encode(), media), timeout=10) as answer:
            assert answer.status == 201, answer.status


def telling(bench: Bench) -> list[Point]:
    """(l) one event for thousands of subscribers, over WebSocket and by rest-hook; state and all in a fresh server."""

    def turn(count: int, hook: int, sockets: bool) -> Seen:
        with fresh(bench) as folder, broker(folder, to="mailbox:", websocket=True, hook=hook) as one:
            before = one.memory()["rss_mib"] * 1024
        with fresh(bench) as folder:
            tokens, port = folder / "tokens", 0 if sockets else hook
            with tokens.open("wb") as written:
                command = program("subscribers", "--prepare", folder / "broker.db", "--clients", count, "--hook", port)
                subprocess.run(command, stdout=written, check=True, timeout=120)
            with broker(folder, to="mailbox:", websocket=True, hook=hook) as one:
                return bench.tell(one, tokens, before=before, hook=port)

    points = []
    for count in bench.options.told:
        turns: dict[str, Turn] = {"websocket": partial(turn, count, free_port(), sockets=True)}
        if count <= TOLD_BY_HOOK:
            turns["rest-hook"] = partial(turn, count, free_port(), sockets=False)
        points.append(bench.told("l", count, turns))
    return points


def over_amqp(bench: Bench) -> list[Point]:
    """(m) from a queue to another, and from HTTP to a queue, through us; and one queue by itself."""
    if not has_rabbitmq():
        bench.note("RabbitMQ is not installed, and (m) is left out: apt-get install rabbitmq-server, or make bench")
        return []
    count = bench.options.deliver
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(fresh(bench))
        node = stack.enter_context(rabbitmq(folder))
        # to the node we are a client like the driver, and share a core with it
        address = f"amqp:?routing_key={AMQP_OUT}"
        ours = stack.enter_context(
            broker(folder, to=address, amqp=node, consume=AMQP_IN, under_way=count, core=DRIVER_CORE)
        )
        load = partial(bench.load_amqp, node, under_way=count, size=ORDINARY)
        turns: dict[str, Turn] = {
            "rabbitmq": load,
            "amqp-amqp": partial(load, through=ours),
            "http-amqp": partial(load, through=ours, http=KEEP),
        }
        return [bench.point("m", connections(count), "settled_per_second", turns, node, ours)]


PARTS: dict[str, Callable[[Bench], list[Point]]] = {
    "a": accepting,
    "b": delivering,
    "c": synchronous,
    "e": stored,
    "f": large,
    "g": neighbours,
    "h": followers,
    "i": hops,
    "j": matching,
    "k": subscribed,
    "l": telling,
    "m": over_amqp,
}

"""What the figures must reach: ratios to an anchor measured in the same run, and two figures of the daemon itself."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rounds import Options, Point

OF_BARE = {"a": 0.5, "b": 0.4}  # deliveries cost the broker its bookkeeping twice
OF_RABBITMQ = 1.0
OF_QUEUE = 0.5  # of what one queue carries by itself: what it has stored we store once more
OF_PROXY = 2.0  # times what a plain proxy adds to the median
CPU = 0.30  # seconds of processor time per 1,000 messages accepted and delivered
MEMORY = 120  # MiB, resident
OF_EMPTY = 0.9
MATCHING = 5.0  # milliseconds
OF_NONE = 0.85  # of the rate without subscriptions: what is followed has to be read again
OF_ALONE = 1.1  # times p50 and p99 of the healthy receiver when it is alone; its rate divided by this
OF_FANOUT = 0.5  # of the bare server's frames a second; the goal is 0.8
TOLD = {"websocket": 1000.0, "rest-hook": 2000.0}  # milliseconds until 2,000 subscribers have their event
KIB = 30  # KiB for each idle connection that follows; the goal is 20
OF_HOP = {"p50_ms": 4.0, "p99_ms": 25.0}  # milliseconds that each of three hops may add
MOST = "max"  # the stage of (g) without a rate
WORDS = {"per_second": "arrivals a second", "p50_ms": "p50", "p99_ms": "p99"}


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One figure beside what it must reach; no values means that it could not be measured."""

    part: str
    what: str
    values: list[float]  # round by round
    value: float | None  # that counts: their median, unless said otherwise
    limit: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def _floor(part: str, what: str, values: list[float], limit: float, *, at_most: bool = False) -> Floor:
    value = statistics.median(values) if values else None
    return Floor(part=part, what=what, values=values, value=value, limit=limit, at_most=at_most)


def added(point: Point, who: str, key: str) -> list[float]:
    """What a hop costs, in milliseconds: round by round above the direct way."""
    return [hop - base for hop, base in zip(point.all(who, key), point.all("direct", key), strict=True)]


def _of_bare(point: Point) -> Floor:
    ratios = point.ratios("broker", "bare", point.rate)
    return _floor(point.part, f"{point.name}: broker / bare", ratios, OF_BARE[point.part])


def _delivering(point: Point) -> Iterable[Floor]:
    yield _of_bare(point)
    ratios = point.ratios("broker", "rabbitmq", point.rate) if "rabbitmq" in point.seen else []
    yield _floor("b", f"{point.name}: broker / RabbitMQ + aio-pika", ratios, OF_RABBITMQ)


def _cost(point: Point) -> Iterable[Floor]:
    used = point.all("broker", "cpu_s_per_1000")
    yield _floor("d", "CPU-s per 1,000 accepted and delivered", used, CPU, at_most=True)
    yield _floor("d", "MiB resident after the load", point.all("broker", "rss_mib"), MEMORY, at_most=True)


def _synchronous(point: Point) -> Iterable[Floor]:
    """The ratio of the medians: within a round the proxy's share may be too small to divide by."""
    ours, theirs = added(point, "broker", "p50_ms"), added(point, "proxy", "p50_ms")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if other > 0]
    base = statistics.median(theirs)
    value = statistics.median(ours) / base if base > 0 else None
    what = f"{point.name}: p50 added, broker / proxy"
    yield Floor(part="c", what=what, values=ratios, value=value, limit=OF_PROXY, at_most=True)


def of_each_hop(point: Point, who: str, key: str, hops: int) -> list[float]:
    """What each of several hops adds, round by round."""
    return [whole / hops for whole in added(point, who, key)]


def _hops(point: Point) -> Iterable[Floor]:
    for key, limit in OF_HOP.items():
        what = f"{point.name}: {WORDS[key]} added by each of three hops, ms"
        yield _floor("i", what, of_each_hop(point, "three", key, 3), limit, at_most=True)


def _stored(point: Point) -> Iterable[Floor]:
    if "stored" in point.seen:
        yield _floor("e", f"{point.name}: stored / empty", point.ratios("stored", "empty", point.rate), OF_EMPTY)


def base_of(point: Point) -> str:
    """With what (g) compares: at a rate with neighbours that cost nothing; where the processor is the limit, with
    neighbours that are well, since a delivery costs it something whoever it is for."""
    return "well" if point.name == MOST else "alone"


def at_rate(point: Point) -> str:
    return "as many as can" if point.name == MOST else f"{point.name}/s"


def _neighbours(point: Point) -> Iterable[Floor]:
    """The healthy receiver's rate and times, beside sick neighbours and behind one gateway with them.

    The ratio of the medians: a round has few of its slowest messages.
    """
    base = base_of(point)
    keys = ("per_second",) if point.name == MOST else ("per_second", "p50_ms", "p99_ms")
    for who in ("beside", "gateway"):
        for key in keys:
            what = f"{at_rate(point)}: {WORDS[key]}, {who} / {base}"
            is_rate = key == "per_second"
            value = point.median(who, key) / point.median(base, key)
            yield Floor(
                part="g",
                what=what,
                values=point.ratios(who, base, key),
                value=value,
                limit=1 / OF_ALONE if is_rate else OF_ALONE,
                at_most=not is_rate,
            )


def _followers(point: Point) -> Iterable[Floor]:
    yield _floor("h", f"{point.name}: KiB an idle connection", point.all("broker", "kib_idle"), KIB, at_most=True)
    yield _floor("h", f"{point.name}: frames/s, broker / bare", point.ratios("broker", "bare", point.rate), OF_FANOUT)


def _matching(point: Point) -> Iterable[Floor]:
    """The median; where all filters differ and none names a value, there is no floor."""
    for who in point.seen:
        if who != "different":
            yield _floor("j", f"{point.name}: ms an event, {who}", point.all(who, "p50_ms"), MATCHING, at_most=True)


def _subscribed(point: Point) -> Iterable[Floor]:
    yield _floor("k", f"{point.name}: with / without subscriptions", point.ratios("some", "none", point.rate), OF_NONE)


def _telling(point: Point) -> Iterable[Floor]:
    """The time for as many as are promised, and fewer; the memory for however many."""
    yield _floor(
        "l", f"{point.name}: KiB an idle socket, all told", point.all("websocket", "kib_idle"), KIB, at_most=True
    )
    if "rest-hook" in point.seen:  # as many as are promised, or fewer
        for who, limit in TOLD.items():
            yield _floor("l", f"{point.name}: ms to all, {who}", point.all(who, "all_ms"), limit, at_most=True)


def _over_amqp(point: Point) -> Iterable[Floor]:
    for who in ("amqp-amqp", "http-amqp"):
        yield _floor("m", f"{point.name}: {who} / RabbitMQ alone", point.ratios(who, "rabbitmq", point.rate), OF_QUEUE)


def floors(points: list[Point], options: Options) -> list[Floor]:
    """In the order of the parts; a part that was asked for and could not be measured has a row that says so."""
    of: dict[str, Callable[[Point], Iterable[Floor]]] = {
        "a": lambda point: [_of_bare(point)],
        "b": _delivering,
        "c": _synchronous,
        "e": _stored,
        "g": _neighbours,
        "h": _followers,
        "i": _hops,
        "j": _matching,
        "k": _subscribed,
        "l": _telling,
        "m": _over_amqp,
    }
    found = [floor for point in points if point.part in of for floor in of[point.part](point)]
    if "d" in options.parts:
        found += [floor for point in points if point.part == "b" for floor in _cost(point)]
    if "b" not in options.parts:  # measured for (d) alone
        found = [floor for floor in found if floor.part != "b"]
    if "e" in options.parts and not any(point.part == "e" for point in points):
        found.append(_floor("e", "stored / empty", [], OF_EMPTY))
    if "m" in options.parts and not any(point.part == "m" for point in points):
        found.append(_floor("m", "through the broker / RabbitMQ alone", [], OF_QUEUE))
    return sorted(found, key=lambda floor: floor.part)

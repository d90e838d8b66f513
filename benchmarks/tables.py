"""The figures as tables: a median over the rounds, and the least and the most of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from floors import Floor, added, at_rate, base_of
from rounds import DISTURBED, Bench, Point

TITLES = {
    "a": "accepted and durable, 4 KiB",
    "b": "accepted, delivered over HTTP and settled, 4 KiB",
    "c": "synchronous request and response, 4 KiB each way",
    "d": "what accepting and delivering costs",
    "e": "with a long past in the store",
    "f": "large messages",
    "g": "a healthy receiver and four sick neighbours, 4 KiB",
    "h": "live notifications over WebSocket",
    "i": "a synchronous request over one broker and over three, 4 KiB each way",
    "j": "one event against many subscriptions",
    "k": "accepted and durable with 1,000 subscriptions, of which one hears of 1 % of the messages, 4 KiB",
    "l": "one event told to many subscribers, 4 KiB",
    "m": "over AMQP: accepted, delivered to a queue and settled, 4 KiB",
}
ANCHORS = {
    "broker": ("bare", "rabbitmq"), "stored": ("empty",), "cold": ("warm",), "some": ("none",),
    "amqp-amqp": ("rabbitmq",), "http-amqp": ("rabbitmq",),
}  # fmt: skip
Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as they must be; all but the first to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    middle = format(statistics.median(values), form)
    if len(values) < 2:
        return middle
    return f"{middle} ({format(min(values), form)}-{format(max(values), form)})"


def durable(points: list[Point]) -> str:
    """Rates, answers and costs of (a), (b), (e) and (f)."""
    rows = []
    for point in points:
        for who in point.seen:
            ratios = [
                f"{spread(point.ratios(who, anchor, point.rate), '.2f')} of {anchor}"
                for anchor in ANCHORS.get(who, ())
                if anchor in point.seen
            ]
            rows.append((
                f"{point.name}: {who}",
                spread(point.all(who, point.rate)),
                f"{point.median(who, 'p50_ms'):.2f}",
                f"{point.median(who, 'p99_ms'):.1f}",
                f"{point.median(who, 'cpu_s_per_1000'):.3f}",
                f"{point.median(who, 'rss_mib'):.0f}",
                f"{point.median(who, 'driver_busy'):.0%}",
                "; ".join(ratios),
            ))  # fmt: skip
    head = ("", "messages/s", "p50 ms", "p99 ms", "CPU-s/1,000", "RSS MiB", "driver", "ratio")
    return table(head, rows)


def hops(points: list[Point]) -> str:
    """What a hop adds, in (c), and what several do, in (i)."""
    rows = [
        (
            f"{point.name}: {who}",
            spread(point.all(who, "p50_ms"), ".2f"),
            spread(point.all(who, "p99_ms"), ".1f"),
            "" if who == "direct" else spread(added(point, who, "p50_ms"), ".2f"),
            "" if who == "direct" else spread(added(point, who, "p99_ms"), ".1f"),
            spread(point.all(who, "per_second")),
            f"{point.median(who, 'driver_busy'):.0%}",
        )
        for point in points
        for who in point.seen
    ]
    return table(("", "p50 ms", "p99 ms", "p50 added", "p99 added", "requests/s", "driver"), rows)


def costs(points: list[Point]) -> str:
    """Processor time and memory, read from the rounds of (b)."""
    rows = [
        (
            f"{point.name}: {who}",
            spread(point.all(who, "cpu_s_per_1000"), ".3f"),
            f"{point.idle[who]['rss_mib']:.0f} / {point.idle[who]['pss_mib']:.0f}",
            f"{spread(point.all(who, 'rss_mib'))} / {spread(point.all(who, 'pss_mib'))}",
        )
        for point in points
        for who in point.seen
    ]
    return table(("", "CPU-s/1,000", "idle RSS / PSS MiB", "RSS / PSS MiB after load"), rows)


def neighbours(points: list[Point]) -> str:
    """What reaches the healthy receiver, and when, beside neighbours of several kinds in (g)."""
    rows = []
    for point in points:
        base = base_of(point)
        for who in point.seen:
            ratios = [
                f"{spread(point.ratios(who, base, key), '.2f')}" if who != base else "1"
                for key in ("per_second", "p50_ms", "p99_ms")
            ]
            rows.append((
                f"{at_rate(point)}: {who}",
                spread(point.all(who, "per_second")),
                spread(point.all(who, "p50_ms"), ".2f"),
                spread(point.all(who, "p99_ms"), ".1f"),
                *ratios,
                f"{point.median(who, 'driver_busy'):.0%}",
            ))  # fmt: skip
    return table(("", "arrived/s", "p50 ms", "p99 ms", "rate of base", "p50", "p99", "driver"), rows)


def followers(points: list[Point]) -> str:
    """What a connection costs, and how soon one notification has reached all, in (h)."""
    rows = [
        (
            f"{point.name}: {who}",
            spread(point.all(who, "kib_idle"), ".1f"),
            spread(point.all(who, "kib_loaded"), ".1f"),
            spread(point.all(who, "all_ms"), ".1f"),
            f"{point.median(who, 'slowest_all_ms'):.1f}",
            spread(point.all(who, "frames_per_second")),
            f"{point.median(who, 'cpu_us_per_frame'):.2f}",
            spread(point.ratios(who, "bare", "frames_per_second"), ".2f"),
            f"{point.median(who, 'driver_busy'):.0%}",
        )
        for point in points
        for who in point.seen
    ]
    head = ("", "KiB idle", "after", "ms to all", "slowest", "frames/s", "CPU us/frame", "of bare", "driver")
    return table(head, rows)


def matching(points: list[Point]) -> str:
    """How long it takes to find who hears of one message, in (j)."""
    rows = [
        (
            f"{point.name}: {who}",
            spread(point.all(who, "p50_ms"), ".3f"),
            spread(point.all(who, "p99_ms"), ".3f"),
            f"{point.median(who, 'heard'):,.0f}",
            spread(point.all(who, "us_each_added"), ".0f"),
            spread(point.all(who, "kib_each"), ".1f"),
        )
        for point in points
        for who in point.seen
    ]
    return table(("", "p50 ms", "p99 ms", "hear", "us to add one", "KiB each"), rows)


def telling(points: list[Point]) -> str:
    """How soon one event has reached all subscribers, and what each of them costs, in (l)."""
    rows = [
        (
            f"{point.name}: {who}",
            spread(point.all(who, "all_ms"), ".0f"),
            f"{point.median(who, 'slowest_all_ms'):.0f}",
            spread(point.all(who, "kib_idle"), ".1f"),
            spread(point.all(who, "kib_after"), ".1f"),
            f"{point.median(who, 'cpu_us_each'):.0f}",
        )
        for point in points
        for who in point.seen
    ]
    return table(("", "ms to all", "slowest", "KiB idle", "after", "CPU us each"), rows)


TABLES: dict[str, Callable[[list[Point]], str]] = {
    "c": hops, "i": hops, "d": costs, "g": neighbours, "h": followers, "j": matching, "l": telling,
}  # fmt: skip


def reached(found: list[Floor]) -> str:
    rows = []
    for floor in found:
        form = ".0f" if floor.limit > 10 else ".2f"
        limit = f"{'at most' if floor.at_most else 'at least'} {floor.limit:{form}}"
        if floor.value is None:
            rows.append((f"({floor.part}) {floor.what}", "-", "", limit, "NOT MEASURED"))
            continue
        least_most = f"{min(floor.values):{form}}-{max(floor.values):{form}}" if len(floor.values) > 1 else ""
        met = "met" if floor.met else "NOT MET"
        rows.append((f"({floor.part}) {floor.what}", f"{floor.value:{form}}", least_most, limit, met))
    return table(("floors", "figure", "min-max", "floor", ""), rows)


def report(bench: Bench, points: list[Point], found: list[Floor]) -> Iterator[str]:
    options = bench.options
    yield f"Medians of {options.rounds} round{'s' * (options.rounds > 1)}, turn by turn (least-most)"
    for part in options.parts:
        mine = [point for point in points if point.part == ("b" if part == "d" else part)]
        if not mine:
            continue
        yield f"\n({part}) {TITLES[part]}"
        yield TABLES.get(part, durable)(mine)
        if part == "e":
            yield _past(bench, mine)
        if part in "abefkm":
            syncs = [rate for point in mine for rate in point.syncs]
            yield f"  disk: {spread(syncs)} appends + fdatasync of 4 KiB a second"
    if found:
        yield ""
        yield reached(found)
    for who, busy in bench.busiest.items():
        client = "aio-pika, which is part of what is compared," if who == "rabbitmq" else "the driver"
        yield f"NOTE: against {who}, {client} filled up to {busy:.0%} of its core: its rate may be the driver's"
    if bench.disturbed > DISTURBED:
        yield f"NOTE: other programs used up to {bench.disturbed:.0%} of the two cores in a round: run it again"
    for note in bench.notes:
        yield f"NOTE: {note}"


def _past(bench: Bench, points: list[Point]) -> str:
    past = bench.stored
    text = (
        f"  {past['stored']:,} messages were put there in {past['seconds']:.0f} s: "
        f"{past['bytes'] / (1 << 30):.1f} GiB, outside the clock"
    )
    starts = [
        f"{who} in {spread(point.all(who, 'start_s'), '.1f')} s"
        for point in points
        for who in ("warm", "cold")
        if who in point.seen
    ]
    return f"{text}; ready after a start: {', '.join(starts)}"

"""Counts what the flow says, and shows it to Prometheus; labels are channels, rules, lanes and error ids, no more."""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import accumulate

import prometheus_client as prometheus
from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from broker import __version__
from broker.api.admin_parts import CallersLike, DeliveringLike
from broker.api.admin_subscriptions import Told
from broker.api.subscription_service import SubscriptionService
from broker.core.hold import Phase
from broker.directory import Freshness, SourceState
from broker.store import Counts, Store, StoreError, Waiting

PREFIX = "fhir_broker"
FRESH = 1.0  # seconds that what the store counted is good for; scrapers in a crowd cost it one question
MOST_LANES = 500  # label values; of more, the rest is summed up, so that a wild directory does not grow the scrape
OTHERS = "(others)"
NO_LANE = "(no address)"  # what is known and cannot be reached now
DEFAULTS = "(defaults)"  # the route of what no rule matched; an empty label would be none
ATTEMPT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
STALL = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)  # seconds
COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)  # seconds


class Metrics:
    """A `broker.flow.meter.Meter`: a call is a look-up and an addition, and only a scrape makes samples of it.

    Each number is added to by one thread, the loop's or the store's writer, so none needs a lock.
    """

    def __init__(self) -> None:
        registry = self.registry = prometheus.CollectorRegistry(auto_describe=False)
        self._received = counted(registry, "messages_received", "Messages that came in.", "channel")
        self._accepted = counted(registry, "messages_accepted", "Messages that were kept.", "channel")
        self._refused = counted(registry, "messages_refused", "Messages refused at the door.", "channel", "error")
        self._duplicates = counted(registry, "dedupe_hits", "Copies of messages that were here before.", "channel")
        self._delivered = counted(registry, "messages_delivered", "Deliveries that ended well.", "channel", "route")
        self._died = counted(registry, "deliveries_failed", "Deliveries given up or refused.", "route", "error")
        self._attempts = counted(registry, "delivery_attempts", "Attempts by their end.", "channel", "outcome")
        self._responses = counted(registry, "responses", "Responses by what they were to us.", "fate")
        self._late = counted(registry, "late_responses", "Responses to requests that were closed.")
        self._durations = Timed(registry, "delivery_duration_seconds", "Attempts, by channel.", ATTEMPT, "channel")
        self._commits = Timed(registry, "store_commit_seconds", "Commits of the store.", COMMIT)
        self._stalls = Timed(registry, "loop_stall_seconds", "How late the event loop came round, by samples.", STALL)
        self._told = counted(registry, "subscription_events", "Events that topics told of and somebody heard of.")
        self._heard = counted(registry, "subscription_event_numbers", "Event numbers given to subscriptions.")
        self._behind = 0.0  # seconds
        registry.register(self)
        self._operations = counted(registry, "store_operations", "Operations that the commits held.")
        info = prometheus.Gauge("build_info", "This release.", ("version", "python"), PREFIX, registry=registry)
        info.labels(__version__, platform.python_version()).set(1)
        prometheus.ProcessCollector(registry=registry)
        prometheus.GCCollector(registry=registry)

    # -- what the flow says

    def received(self, channel: str) -> None:
        self._received[channel,] += 1

    def refused(self, channel: str, error: str) -> None:
        self._refused[channel, error] += 1

    def accepted(self, channel: str) -> None:
        self._accepted[channel,] += 1

    def duplicate(self, channel: str) -> None:
        self._duplicates[channel,] += 1

    def attempted(self, channel: str, outcome: str, seconds: float) -> None:
        self._attempts[channel, outcome] += 1
        self._durations.child(channel).observe(seconds)

    def delivered(self, channel: str, route: str) -> None:
        self._delivered[channel, route or DEFAULTS] += 1

    def died(self, route: str, error: str) -> None:
        self._died[route or DEFAULTS, error] += 1

    def responded(self, fate: str) -> None:
        self._responses[fate,] += 1
        if fate == "late":
            self._late[()] += 1

    def stalled(self, seconds: float) -> None:
        """The loop came round so much later than it was due."""
        self._stalls.child().observe(seconds)

    def told(self, events: int, numbers: int) -> None:
        self._told[()] += events
        self._heard[()] += numbers

    def behind(self, seconds: float) -> None:
        """How long the oldest message has been waiting that was not looked into for subscribers."""
        self._behind = seconds

    def collect(self) -> Iterator[Metric]:
        yield _gauge("subscription_lag_seconds", "Age of what was not yet looked into for subscribers.", self._behind)

    # -- what the store says

    def committed(self, seconds: float, operations: int) -> None:
        """One commit with so many operations; called in the writer's thread."""
        self._commits.child().observe(seconds)
        self._operations[()] += operations


class Tally(dict[tuple[str, ...], int]):
    """The numbers of a counter by the values of its labels; one that was never counted is nought."""

    def __missing__(self, values: tuple[str, ...]) -> int:
        return 0


def counted(registry: prometheus.CollectorRegistry, name: str, text: str, *labels: str) -> Tally:
    """A counter that the registry shows."""
    counts = Tally() if labels else Tally({(): 0})
    registry.register(Counted(counts, name, text, labels))
    return counts


class Counted:
    """Shows a counter."""

    def __init__(self, counts: Tally, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._counts = counts
        self._about = (f"{PREFIX}_{name}", text, labels)

    def describe(self) -> list[Metric]:
        name, text, labels = self._about
        return [CounterMetricFamily(name, text, labels=labels)]

    def collect(self) -> Iterator[Metric]:
        name, text, labels = self._about
        family = CounterMetricFamily(name, text, labels=labels)
        for values, count in tuple(self._counts.items()):
            family.add_metric(values, count)
        yield family


class Spread:
    """How many observations fell between which bounds, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last for what is beyond the last bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1  # a bound belongs to its bucket
        self.total += value


class Timed:
    """A histogram: its spreads by the values of its labels."""

    def __init__(
        self, registry: prometheus.CollectorRegistry, name: str, text: str, bounds: tuple[float, ...], *labels: str
    ) -> None:
        self._about = (f"{PREFIX}_{name}", text, labels)
        self._bounds = bounds
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._children: dict[tuple[str, ...], Spread] = {} if labels else {(): Spread(bounds)}
        registry.register(self)

    def child(self, *values: str) -> Spread:
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = Spread(self._bounds)
        return found

    def describe(self) -> list[Metric]:
        name, text, labels = self._about
        return [HistogramMetricFamily(name, text, labels=labels)]

    def collect(self) -> Iterator[Metric]:
        name, text, labels = self._about
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, spread in tuple(self._children.items()):
            buckets = list(zip(self._names, accumulate(spread.counts), strict=True))
            family.add_metric(values, buckets, spread.total)
        yield family


class Standing:
    """What is read when somebody asks: how much waits, where, and since when."""

    def __init__(
        self, *, store: Store, delivering: DeliveringLike, callers: CallersLike, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._delivering = delivering
        self._callers = callers
        self._now = now
        self._counts: Counts | None = None
        self._waiting: tuple[Waiting, ...] = ()
        self._read = float("-inf")

    async def read(self) -> None:
        """Asks the store, at most once in `FRESH` seconds; what it cannot say is left out of the scrape."""
        if time.monotonic() - self._read < FRESH:
            return
        self._read = time.monotonic()
        try:
            self._counts, self._waiting = await self._store.counts(), await self._store.lanes()
        except StoreError:
            self._counts, self._waiting = None, ()

    def collect(self) -> Iterator[Metric]:
        yield _gauge("store_backlog", "Operations that wait for the store's writer.", self._store.backlog())
        yield _gauge("callers_waiting", "Callers that wait for an answer.", self._callers.count())
        with suppress(OSError):  # readiness says so
            yield _gauge("store_free_bytes", "Room left on the store's disk.", self._store.free())
            yield _gauge("store_wal_bytes", "Size of the store's log.", self._store.wal())
        if self._counts is not None:
            yield _gauge("dead_letters", "Dead deliveries that wait for an operator.", self._counts.dead)
            yield _gauge("streams_held", "Streams that a dead letter holds.", self._counts.held_streams)
            yield _gauge("pending_responses", "Deliveries whose response is looked for.", self._counts.open_answers)
        yield from self._lanes()

    def _lanes(self) -> Iterator[Metric]:
        depth: dict[str, int] = {}
        age: dict[str, float] = {}
        now = self._now()
        for one in sorted(self._waiting, key=lambda waiting: -waiting.count):
            name = (one.lane or NO_LANE) if len(depth) < MOST_LANES else OTHERS
            depth[name] = depth.get(name, 0) + one.count
            since = max((now - (one.oldest or one.due)).total_seconds(), 0.0)
            age[name] = max(age.get(name, 0.0), since)
        lanes = tuple(self._delivering.lanes.values())
        closed = [lane.name for lane in lanes if lane.closed_until is not None][:MOST_LANES]
        held = [hold.lane for hold in self._delivering.holds.values() if hold.phase(now) is Phase.HELD][:MOST_LANES]
        alone = [(lane.name, len(lane.left_alone)) for lane in lanes if lane.left_alone][:MOST_LANES]
        yield _by_lane("queue_depth", "Deliveries that wait, by lane.", depth.items())
        yield _by_lane("queue_oldest_age_seconds", "Age of the oldest that waits, by lane.", age.items())
        yield _by_lane("lane_closed", "Lanes whose peer is left alone for now.", ((name, 1) for name in closed))
        yield _by_lane("lane_held", "Lanes to which an operator lets nothing go.", ((name, 1) for name in held))
        yield _by_lane("lane_left_alone", "Destinations that are left alone for now, by lane.", alone)


class Sources:
    """The servers that the directory is read from: whether they could be read, and how old is what they said."""

    def __init__(self, states: Callable[[], tuple[SourceState, ...]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        fresh = GaugeMetricFamily(
            f"{PREFIX}_directory_source_fresh", "Whether it was read last time.", labels=["source"]
        )
        age = GaugeMetricFamily(
            f"{PREFIX}_directory_source_age_seconds", "Since the source was last read well.", labels=["source"]
        )
        for one in self._states():
            fresh.add_metric([one.source], one.freshness is Freshness.FRESH)
            if one.age is not None:
                age.add_metric([one.source], one.age)
        yield fresh
        yield age


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _by_lane(name: str, text: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=("destination",))
    for lane, value in values:
        family.add_metric([lane], value)
    return family


def add_metrics(
    app: web.Application,
    metrics: Metrics,
    *,
    store: Store,
    delivering: DeliveringLike,
    callers: CallersLike,
    now: Callable[[], datetime],
    sources: Callable[[], tuple[SourceState, ...]],
    subscriptions: SubscriptionService | None = None,
) -> None:
    """Adds `/metrics`."""
    standing = Standing(store=store, delivering=delivering, callers=callers, now=now)
    metrics.registry.register(standing)
    metrics.registry.register(Sources(sources))
    if subscriptions is not None:
        metrics.registry.register(Told(subscriptions))

    async def scrape(request: web.Request) -> web.Response:
        await standing.read()
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(metrics.registry), headers={hdrs.CONTENT_TYPE: content_type})

    app.router.add_get("/metrics", scrape)

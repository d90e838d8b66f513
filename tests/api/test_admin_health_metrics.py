"""`/health` and `/metrics`."""

from __future__ import annotations

import timeit
from datetime import timedelta
from unittest.mock import patch

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from operator_desk import LANE, NOW, Desk, lane
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.api.health import Health, add_health
from broker.api.metrics import ATTEMPT, Metrics, Timed, counted
from broker.core.circuit import PeerHealth
from broker.flow.meter import Meter, NoMeter


async def ready(desk: Desk, path: str = "/health/ready") -> tuple[int, dict]:  # type: ignore[type-arg]
    answer = await desk.client.get(path)
    return answer.status, await answer.json()


async def test_ready_shows_every_check_to_the_operator(desk: Desk) -> None:
    status, told = await ready(desk)
    assert (status, told["status"], told["insecure"]) == (200, "ready", False)
    assert set(told["checks"]) == {"store", "listeners", "channels", "directory", "draining"}
    assert told["checks"]["store"]["free"] >= told["checks"]["store"]["min_free"]


async def test_aliases_are_on_the_admin_listener(desk: Desk) -> None:
    assert (await ready(desk, "/readyz"))[0] == 200
    assert (await ready(desk, "/healthz")) == (200, {"status": "alive"})
    assert (await ready(desk, "/health/live")) == (200, {"status": "alive"})


async def test_a_full_disk_is_not_ready_and_still_alive(desk: Desk) -> None:
    with patch.object(desk.store, "free", return_value=0):
        status, told = await ready(desk)
        assert (status, told["checks"]["store"]["ok"]) == (503, False)
        assert (await ready(desk, "/health/live"))[0] == 200
    with patch.object(desk.store, "free", side_effect=OSError(5, "Input/output error")):
        assert (await ready(desk))[0] == 503


async def test_channel_whose_server_is_away_is_told_and_does_not_make_it_unready(desk: Desk) -> None:
    app = web.Application()
    health = Health(
        here=desk.here, store=desk.store, intake=desk.intake, directory=desk.directory, insecure=False,
        listening=desk.listening, troubles=lambda: {"amqp": "fhir.in: connection refused"},
    )  # fmt: skip
    add_health(app, health, aliases=True)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/health/ready")
        told = await answer.json()
    assert answer.status == 200
    assert told["checks"]["channels"] == {"ok": True, "troubles": {"amqp": "fhir.in: connection refused"}}


async def test_draining_and_starting_are_not_ready(desk: Desk) -> None:
    desk.intake.draining = True
    status, told = await ready(desk)
    assert (status, told["checks"]["draining"]["ok"]) == (503, False)
    desk.intake.draining = False
    desk.listening.clear()
    status, told = await ready(desk)
    assert (status, told["status"], told["checks"]["listeners"]["ok"]) == (503, "not ready", False)


async def test_partners_see_yes_and_no_only(desk: Desk) -> None:
    app = web.Application()
    health = Health(
        here=desk.here, store=desk.store, intake=desk.intake, directory=desk.directory, insecure=True,
        listening=desk.listening,
    )  # fmt: skip
    add_health(app, health)
    async with TestClient(TestServer(app)) as client:
        told = await (await client.get("/health/ready")).json()
        assert told == {
            "status": "ready", "insecure": True,
            "checks": {"store": True, "listeners": True, "channels": True, "directory": True, "draining": True},
        }  # fmt: skip
        assert (await client.get("/readyz")).status == 404


# -- metrics


async def scrape(desk: Desk) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = await desk.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name.removeprefix("fhir_broker_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(await answer.text())
        for sample in family.samples
    }


async def test_what_the_flow_says_is_counted(desk: Desk) -> None:
    meter: Meter = desk.metrics
    meter.received("http")
    meter.received("http")
    meter.accepted("http")
    meter.refused("http", "unknown-destination")
    meter.duplicate("http")
    meter.attempted("http", "delivered", 0.02)
    meter.delivered("http", "sick notes")
    meter.died("", "given-up")
    meter.responded("answer")
    meter.responded("late")
    desk.metrics.committed(0.002, 17)
    seen = await scrape(desk)
    assert seen["messages_received_total", ("http",)] == 2
    assert seen["messages_accepted_total", ("http",)] == 1
    assert seen["messages_refused_total", ("http", "unknown-destination")] == 1
    assert seen["dedupe_hits_total", ("http",)] == 1
    assert seen["delivery_attempts_total", ("http", "delivered")] == 1
    assert seen["messages_delivered_total", ("http", "sick notes")] == 1
    assert seen["deliveries_failed_total", ("given-up", "(defaults)")] == 1
    assert seen["responses_total", ("late",)] == 1
    assert seen["late_responses_total", ()] == 1
    assert seen["delivery_duration_seconds_bucket", ("http", "0.025")] == 1
    assert (seen["store_commit_seconds_count", ()], seen["store_operations_total", ()]) == (1, 17)


@given(st.lists(st.sampled_from(ATTEMPT) | st.floats(0, 100)))
def test_durations_are_shown_as_prometheus_own_histogram_shows_them(durations: list[float]) -> None:
    ours = Metrics()
    theirs = Histogram(
        "delivery_duration_seconds", "Attempts, by channel.", ["channel"], "fhir_broker", registry=None, buckets=ATTEMPT
    )
    for seconds in durations:
        ours.attempted("http", "delivered", seconds)
        theirs.labels("http").observe(seconds)
    [shown] = [family for family in ours.registry.collect() if family.name == "fhir_broker_delivery_duration_seconds"]
    [expected] = theirs.collect()
    samples = [sample for sample in expected.samples if not sample.name.endswith("_created")]
    assert (shown.type, shown.documentation, shown.samples) == (expected.type, expected.documentation, samples)


def test_counters_are_shown_as_prometheus_own_show_them() -> None:
    ours, theirs = Metrics(), CollectorRegistry()
    received = Counter("messages_received", "Messages that came in.", ["channel"], "fhir_broker", registry=theirs)
    Counter("late_responses", "Responses to requests that were closed.", (), "fhir_broker", registry=theirs)
    for channel in ("http", 'a "b"\n', "http"):
        ours.received(channel)
        received.labels(channel).inc()

    def lines(registry: CollectorRegistry) -> list[str]:
        names = ("messages_received_total", "late_responses_total")
        return [line for line in generate_latest(registry).decode().splitlines() if any(n in line for n in names)]

    assert lines(ours.registry) == lines(theirs)
    assert len(lines(theirs)) == 7


def test_two_metrics_of_one_name_are_a_mistake() -> None:
    registry = Metrics().registry
    for name in ("messages_received", "messages_received_total"):
        with pytest.raises(ValueError, match="Duplicated"):
            counted(registry, name, "Again.", "channel")
    with pytest.raises(ValueError, match="Duplicated"):
        Timed(registry, "store_commit_seconds", "Again.", ATTEMPT)


async def test_what_stands_is_read_at_the_scrape(desk: Desk) -> None:
    await desk.accept(1)
    await desk.dead(2)
    desk.callers.waiting = 3
    desk.delivering.lanes["http:other:80"] = lane("http:other:80")
    desk.delivering.lanes["http:other:80"].peer = PeerHealth(unreached=5, until=NOW)
    desk.here.clock = NOW + timedelta(seconds=40)
    seen = await scrape(desk)
    assert seen["queue_depth", (LANE,)] == 1
    assert seen["queue_oldest_age_seconds", (LANE,)] == 40
    assert (seen["dead_letters", ()], seen["pending_responses", ()], seen["callers_waiting", ()]) == (1, 2, 3)
    assert seen["lane_closed", ("http:other:80",)] == 1
    assert seen["store_free_bytes", ()] > 0
    assert ("store_backlog", ()) in seen
    assert any(name == "build_info" for name, _ in seen)
    assert any(name == "process_cpu_seconds_total" for name, _ in seen)
    assert not any(name.endswith("_created") for name, _ in seen)


async def test_a_crowd_of_scrapers_asks_the_store_once(desk: Desk) -> None:
    with patch.object(desk.store, "counts", wraps=desk.store.counts) as counts:
        await scrape(desk)
        await scrape(desk)
    assert counts.call_count == 1


async def test_a_wild_directory_does_not_grow_the_scrape(desk: Desk) -> None:
    from broker.store import Waiting

    lanes = tuple(Waiting(lane=f"http:h{n}:80", count=1, due=NOW) for n in range(600))
    with patch.object(desk.store, "lanes", return_value=lanes):
        seen = await scrape(desk)
    depths = [value for (name, _), value in seen.items() if name == "queue_depth"]
    assert (len(depths), sum(depths)) == (501, 600)


def test_metrics_say_all_that_the_flow_says() -> None:
    said = {name for name in vars(NoMeter) if not name.startswith("_")}
    assert said <= set(dir(Metrics))


@pytest.mark.parametrize("call", ["received", "delivered", "attempted"])
def test_a_call_costs_little(call: str) -> None:
    metrics = Metrics()
    arguments = {"received": ("http",), "delivered": ("http", "r"), "attempted": ("http", "delivered", 0.01)}[call]
    method = getattr(metrics, call)
    best = min(timeit.repeat(lambda: method(*arguments), number=2000, repeat=5)) / 2000
    assert best < 20e-6  # about 1 µs on an idle machine; this one is shared

"""The one place where the parts are built, joined, started and drained."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from aiohttp import web

from broker import __version__, channel
from broker.api.admin import add_admin
from broker.api.fhir import add_fhir
from broker.api.health import Health, add_health
from broker.api.metrics import Metrics, add_metrics
from broker.channel import Accept, ChannelSpec, Finishing, Happening, Room
from broker.config import Settings
from broker.config.installed import Installed
from broker.core.address_pattern import AddressPattern, AddressPatterns, host_of, same_host
from broker.core.fhir.header import Release
from broker.core.ids import MessageIds
from broker.core.rules import RuleSet
from broker.core.subscription.consent import callback
from broker.core.subscription.offering import channels_offered
from broker.core.subscription.targets import Targets
from broker.directory import Directory, DirectoryProblem, Snapshot, changed_names
from broker.flow.aside import Aside
from broker.flow.callers import Callers
from broker.flow.clock import SteadyClock
from broker.flow.here import Here
from broker.flow.intake import Intake
from broker.flow.joined import join
from broker.flow.late import LateReports
from broker.flow.live import Live
from broker.flow.notify import Followers
from broker.flow.retention import Ages, Retaining
from broker.flow.subscribing.joined import Terms
from broker.flow.subscribing.service import Service
from broker.flow.watch import Watching
from broker.notify import ServiceManager, inherited_sockets, watchdog_interval
from broker.plugins import Channels
from broker.serving import Runner
from broker.store.shared_reads import SharedReads
from broker.store.sqlite import SqliteStore
from broker.web import application

log = structlog.get_logger("broker")

Follow = Callable[[str, Callable[[Happening], None]], Callable[[], None]]
WATCH_DIRECTORY = timedelta(seconds=1)  # how often files of the directory are looked at
COLLECT = (20_000, 20, 20)  # a message makes some hundred objects that its end frees without the collector
DRAIN = 20.0  # seconds that attempts under way are given; systemd's TimeoutStopSec is longer


@dataclass(slots=True, kw_only=True)
class Hosting:
    """What a channel is offered (broker.channel.Host)."""

    accept: Accept
    base_url: str
    default_release: Release
    endpoint: str
    max_message: int
    may_be_here: Callable[[str], bool]
    room: Room
    web: web.Application
    mailboxes: channel.Mailboxes
    report: LateReports
    follow: Follow
    subscriptions: channel.Subscriptions | None
    clock: Callable[[], datetime]

    def now(self) -> datetime:
        return self.clock()


class Broker:
    """All parts of one daemon, joined."""

    def __init__(
        self,
        settings: Settings,
        *,
        channels: Mapping[str, ChannelSpec] | None = None,
        sockets: Mapping[str, socket.socket] = MappingProxyType({}),
        clock: SteadyClock | None = None,
    ) -> None:
        self._settings = settings
        self._inherited = dict(sockets)  # by listener: opened by the service manager, so that callers can wait there
        self._clock = SteadyClock() if clock is None else clock
        self._specs = Installed(settings.plugins) if channels is None else channels
        self._tasks: list[asyncio.Task[None]] = []
        self._runners: list[Runner] = []
        self.listening: dict[str, str] = {}

    # -- building

    def _build(self) -> None:
        settings = self._settings
        self.metrics = Metrics()
        self.store = SqliteStore(
            Path(settings.store.path), now=self._clock, max_wal=settings.store.max_wal,
            committed=self.metrics.committed,
        )  # fmt: skip
        self.here = _here(settings, self.store, self._clock)
        self.aside = Aside()
        self.intake = Intake(here=self.here, free=self.store.free, wal=self.store.wal)
        looks = (self._clock.look, self.intake.look)
        self.watching = Watching(looks=looks, stalled=self.metrics.stalled)
        self.directory = Directory(
            settings.directory.endpoints,
            settings.directory.sources,
            folder=settings.file.parent,
            file=str(settings.file),
            lines=settings.directory.lines,
            copies=Path(f"{settings.store.path}.directory"),
        )
        self.rules = RuleSet(settings.routes)
        told = () if settings.subscriptions is None else settings.subscriptions.allow
        written = (*settings.allow.response_url, *told, *(rule.address for rule in settings.routes if rule.address))
        self._own_hosts = frozenset(map(host_of, written))
        self.channels = Channels()
        self.callers = Callers()
        self.followers = Followers()
        self.live = Live(self.here)
        self.reads = SharedReads(self.store)
        self._join()

    def _join(self) -> None:
        settings, here, store = self._settings, self.here, self.store
        flow = join(
            here=here, store=store, ledger=store, channels=self.channels, directory=self._snapshot, rules=self.rules,
            defaults=settings.defaults, intake=self.intake, aside=self.aside, callers=self.callers,
            followers=self.followers, live=self.live, reads=self.reads, meter=self.metrics, telling=store,
            subscriptions=self._terms(),
        )  # fmt: skip
        self.receiving, self.waits, self.delivering = flow.receiving, flow.waits, flow.delivering
        self.late, self.mailboxes, self.sweeping = flow.late, flow.mailboxes, flow.sweeping
        self.refusals, self.subscribing = flow.refusals, flow.subscribing
        kept = settings.store.retention
        ages = Ages(body=kept.body, mailbox=kept.mailbox, identity=kept.identity, trace=kept.trace)
        self.retaining = Retaining(here=here, store=store, ages=ages)

    def _terms(self) -> Terms | None:
        """What is said of subscriptions; None where nobody may subscribe."""
        settings, base_url, key = self._settings, self.here.base_url, self.store.key
        said = settings.subscriptions
        if said is None:
            return None
        caps = {party.name: party.content for party in settings.parties.values() if party.content is not None}
        most = said.content

        return Terms(
            topics=said.topics, delivery=said.delivery, policy=said.policy, event=said.event, token=said.token,
            cap=lambda owner: caps.get(owner, most),
            callback=lambda subscription: callback(base_url, key, subscription),
            channels=channels_offered(settings.channels, said.allow), may_point_at=Targets(said.allow).match,
            most=said.most, heartbeat=said.heartbeat, sockets=self._sockets,
        )  # fmt: skip

    @property
    def _service(self) -> Service | None:
        return None if self.subscribing is None else self.subscribing.service

    def _sockets(self) -> str:
        """Where subscribers connect to, if a channel has sockets for them."""
        return next((url for one in self.channels.receivers if (url := getattr(one, "subscribers_at", ""))), "")

    def _snapshot(self) -> Snapshot:
        return self.directory.current

    # -- starting

    async def start(self) -> None:
        """Returns once everything listens; raises OSError or ValueError where something cannot be had."""
        self._build()
        try:
            await self.directory.start()
            self._report_problems(self.directory.problems)
            self.health = Health(
                here=self.here, store=self.store, intake=self.intake, directory=self.directory,
                insecure=self._settings.insecure, listening=self.listening, troubles=self.channels.troubles,
            )  # fmt: skip
            app = application(
                base_url=self.here.base_url, default_release=self.here.release, endpoint=self.here.endpoint
            )
            self._build_channels(app)  # before anything is carried: what waits must find its sender
            await self.delivering.load_holds()
            if self.subscribing is not None:
                await self.subscribing.load()
            self._start_task(self.delivering.run(), "deliver")
            if self.subscribing is not None:
                self._start_task(self.subscribing.notices.run(), "notices")
                self._start_task(self.subscribing.feeds.run(), "feeds")
                self._start_task(self.subscribing.teller.run(), "tell")
            self._start_task(self.watching.run(), "watch")
            self._start_task(self.sweeping.run(), "sweep")
            self._start_task(self.retaining.run(), "retention")
            self._start_task(self.refusals.run(), "refusals")
            self._start_task(
                self.directory.watch(
                    WATCH_DIRECTORY, self.directory_changed, self._report_problems,
                    refresh=self._settings.directory.refresh,
                ),
                "directory",
            )  # fmt: skip
            for receiver in self.channels.receivers:  # once what it takes in can be carried, holds and all
                await receiver.start()
            await self._listen(app)
        except BaseException:
            await self.stop()
            raise

    async def _listen(self, app: web.Application) -> None:
        settings = self._settings
        add_fhir(
            app, here=self.here, store=self.store, reads=self.reads, followers=self.followers, directory=self._snapshot,
            withdraw=self.waits.withdraw,
            reliable_cache_minutes=int(settings.store.retention.identity.total_seconds() // 60),
            subscriptions=self._service,
        )  # fmt: skip
        add_health(app, self.health)
        http = settings.channels.get("http")
        if http is not None:
            self.listening["http"] = await self._serve(app, "http", http.listen, http.tls)
        self.listening.update(self.channels.listening())
        admin = web.Application()
        self._add_admin(admin)
        self.listening["admin"] = await self._serve(admin, "admin", settings.admin.listen, None)
        for name, unused in self._inherited.items():
            log.warning("a socket was handed down that nothing listens on", name=name, known="http, admin")
            unused.close()

    def _add_admin(self, app: web.Application) -> None:
        add_health(app, self.health, aliases=True)
        add_metrics(
            app, self.metrics, store=self.store, delivering=self.delivering, callers=self.callers, now=self.here.now,
            sources=lambda: self.directory.states, subscriptions=self._service,
        )  # fmt: skip
        add_admin(
            app, here=self.here, store=self.store, directory=self.directory, rules=self.rules,
            defaults=self._settings.defaults, delivering=self.delivering, health=self.health,
            ledger=self.store, parties={one.name: one.endpoints for one in self._settings.parties.values()},
            changed=self.directory_changed, subscriptions=self._service,
        )  # fmt: skip

    def _build_channels(self, app: web.Application) -> None:
        for name, its_settings in self._settings.channels.items():
            spec = self._specs[name]
            host = Hosting(
                accept=self.receiving,
                base_url=self.here.base_url,
                default_release=self.here.release,
                endpoint=self.here.endpoint,
                max_message=self.here.max_message,
                may_be_here=self._may_be_here,
                clock=self.here.now,
                room=self.intake,
                web=app,
                mailboxes=self.mailboxes,
                report=self.late,
                follow=self.live.follow,
                subscriptions=None if self.subscribing is None else self.subscribing.feeds,
            )
            receiver = spec.receiver(its_settings, host) if spec.receiver else None
            sender = spec.sender(its_settings, host) if spec.sender else None
            self.channels.add(spec, sender=sender, receiver=receiver)

    async def _serve(self, app: web.Application, name: str, listen: str, tls: Any) -> str:
        runner = Runner(app)
        self._runners.append(runner)
        inherited = self._inherited.pop(name, None)
        if inherited is not None:
            return await runner.listen_on(inherited, listen, tls)
        return await runner.listen(listen, tls)

    def _start_task(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        task.set_name(name)
        task.add_done_callback(_watch)
        self._tasks.append(task)

    def _may_be_here(self, host: str) -> bool:
        """Whether a host that leads to this machine was written down, without `*`, by whoever runs this broker."""
        return same_host(host) in self._own_hosts or same_host(host) in self.directory.current.hosts

    # -- what the directory says anew

    def _report_problems(self, problems: tuple[DirectoryProblem, ...]) -> None:
        for problem in problems:
            log.warning("directory", problem=str(problem))

    async def directory_changed(self, old: Snapshot, new: Snapshot) -> int:
        """What waits for a name that changed is due at once; returns how many deliveries that is."""
        changed = await asyncio.to_thread(changed_names, old, new)
        if not changed:
            return 0
        woken = await self.delivering.follow(changed.concerns)
        log.info("directory changed", version=new.version, woken=woken)
        return woken

    # -- stopping

    async def stop(self) -> None:
        """Takes nothing new, finishes what is under way, writes what is queued, then closes."""
        if hasattr(self, "intake"):
            self.intake.draining = True
        for receiver in self.channels.receivers:
            await receiver.stop()
        self.followers.wake_all()
        for task in self._tasks:
            task.remove_done_callback(_watch)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.directory.close()
        await self.delivering.drain(DRAIN)
        self.callers.tell_kept()
        for receiver in self.channels.receivers:
            if isinstance(receiver, Finishing):
                await receiver.finish()
        subscribing = getattr(self, "subscribing", None)
        if subscribing is not None:
            await subscribing.feeds.stop()
        for runner in reversed(self._runners):
            await runner.cleanup()
        for sender in set(self.channels.senders().values()):
            await sender.stop()
        await self.aside.close()
        await self.refusals.keep()
        await self.store.close()


def _watch(task: asyncio.Task[None]) -> None:
    """A part that ends by itself has failed: the daemon stops rather than limp."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a part failed; the broker stops", part=task.get_name(), exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


def _here(settings: Settings, store: SqliteStore, clock: SteadyClock) -> Here:
    broker = settings.broker
    allowed = AddressPatterns(AddressPattern.parse(pattern) for pattern in settings.allow.response_url)
    return Here(
        endpoint=broker.endpoint,
        base_url=broker.base_url,
        ids=MessageIds(store.key),
        event_prefix=broker.event_prefix,
        status_event=broker.status_event,
        release=broker.fhir,
        hops=broker.limits.hops,
        max_message=broker.limits.message,
        in_flight=broker.limits.in_flight,
        min_free=settings.store.min_free,
        max_wal=settings.store.max_wal,
        clock_skew=broker.limits.clock_skew,
        parties=bool(settings.parties),
        brokers=frozenset(party.name for party in settings.parties.values() if party.broker),
        may_respond_to=allowed.match,
        now=clock,
        wall=clock.wall,
    )


async def run(settings: Settings, *, env: Mapping[str, str] = os.environ) -> None:
    """Runs the daemon until SIGTERM or SIGINT; raises OSError or ValueError where it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    manager = ServiceManager.of(env)
    broker = Broker(settings, sockets=inherited_sockets(env))
    await broker.start()
    gc.collect()
    gc.freeze()  # what is there now stays; the collector need not look at it again and again
    gc.set_threshold(*COLLECT)
    where = " ".join(f"{name}={address}" for name, address in broker.listening.items())
    log.info("listening", version=__version__, **broker.listening)
    if settings.insecure:
        log.warning("insecure: anybody who reaches the listeners may send and read")
    manager.ready(f"listening: {where}")
    interval = watchdog_interval(env)
    watchdog = asyncio.ensure_future(manager.keep_alive(interval)) if interval else None
    await stop.wait()
    log.info("stopping")
    manager.stopping("finishing what is under way")
    await broker.stop()
    if watchdog is not None:
        watchdog.cancel()
    manager.close()
    log.info("stopped")

"""The steps of the flow, joined: the same in the daemon, in the flow's tests and in the simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.core.policy import Policy
from broker.core.resolution import Whereabouts
from broker.core.rules import RuleSet
from broker.flow.accept import Accepting
from broker.flow.aside import Aside
from broker.flow.callers import Callers
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.intake import Intake
from broker.flow.late import LateReports
from broker.flow.live import Live
from broker.flow.mailboxes import Mailboxes
from broker.flow.meter import Meter
from broker.flow.notify import Followers
from broker.flow.plan import Planning
from broker.flow.receive import Receiving
from broker.flow.refusals import Ledger, Refusals
from broker.flow.report import Reports
from broker.flow.respond import Responding
from broker.flow.subscribing import joined as subscriptions_joined
from broker.flow.subscribing.joined import Subscribing, Terms
from broker.flow.sweep import Sweeping
from broker.flow.waits import Waits
from broker.plugins import Channels
from broker.store import Store
from broker.store.shared_reads import SharedReads
from broker.store.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What others ask of the flow."""

    receiving: Receiving
    accepting: Accepting
    waits: Waits
    delivering: Delivering
    responding: Responding
    late: LateReports
    mailboxes: Mailboxes
    refusals: Refusals
    sweeping: Sweeping
    subscribing: Subscribing | None  # None where nobody may subscribe


def join(
    *,
    here: Here,
    store: Store,
    ledger: Ledger,
    channels: Channels,
    directory: Callable[[], Whereabouts],
    rules: RuleSet,
    defaults: Policy,
    intake: Intake,
    aside: Aside,
    callers: Callers,
    followers: Followers,
    live: Live,
    reads: SharedReads,
    meter: Meter,
    telling: Telling | None = None,
    subscriptions: Terms | None = None,
) -> Flow:
    """Each step gets the plain values and the neighbours that it needs, never the settings."""
    delivering = Delivering(
        here=here, store=store, channels=channels, directory=directory, callers=callers, followers=followers,
        live=live, aside=aside, meter=meter,
    )  # fmt: skip
    planning = Planning(channels=channels, is_open=delivering.is_open, wall=here.wall)
    responding = Responding(
        here=here, store=store, directory=directory, planning=planning, delivering=delivering, callers=callers,
        live=live, defaults=defaults, meter=meter,
    )  # fmt: skip
    settling = delivering.settling
    reports = Reports(here=here, way_back=responding.way_back, post=settling.post)
    refusals = Refusals(here=here, ledger=ledger)
    waits = Waits(
        here=here, store=store, callers=callers, delivering=delivering, responding=responding, defaults=defaults,
        stores_and_forwards=channels.stores_and_forwards,
    )  # fmt: skip
    accepting = Accepting(
        here=here, store=store, rules=rules, defaults=defaults, directory=directory, planning=planning,
        delivering=delivering, responding=responding, reports=reports, callers=callers, waits=waits, refusals=refusals,
        meter=meter,
    )  # fmt: skip
    receiving = Receiving(
        here=here, accepting=accepting, waits=waits, intake=intake, aside=aside, refusals=refusals, meter=meter
    )
    # the end of an attempt may be the beginning of another message: these three know each other
    settling.answers, settling.reports, settling.arrivals = responding, reports, receiving
    subscribing = None
    if subscriptions is not None and telling is not None:
        subscribing = subscriptions_joined.join(
            here=here, store=store, telling=telling, terms=subscriptions, channels=channels, planning=planning,
            directory=directory, rules=rules, delivering=delivering, aside=aside, defaults=defaults, meter=meter,
            room=intake.check_store,
        )  # fmt: skip
        accepting.for_subscribers = subscribing.keeping.route
    return Flow(
        receiving=receiving,
        accepting=accepting,
        waits=waits,
        delivering=delivering,
        responding=responding,
        late=LateReports(here=here, store=store, reports=reports, settling=settling, live=live),
        mailboxes=Mailboxes(here=here, store=store, reads=reads, followers=followers),
        refusals=refusals,
        sweeping=Sweeping(here=here, store=store, delivering=delivering, reports=reports),
        subscribing=subscribing,
    )

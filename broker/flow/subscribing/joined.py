"""The parts of subscriptions, joined; where nobody may subscribe, there are none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from broker.core.fhir.header import Event
from broker.core.policy import Policy
from broker.core.resolution import Whereabouts
from broker.core.rules import RuleSet
from broker.core.subscription import life
from broker.core.subscription.check import ChannelOffer
from broker.core.subscription.subscription import Content, Subscription
from broker.core.subscription.topic import Topic
from broker.core.subscription.wrap import EVENT
from broker.flow.aside import Aside
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.meter import Meter
from broker.flow.plan import Planning
from broker.flow.subscribing.admitting import Admitting, is_fed
from broker.flow.subscribing.composing import Composing
from broker.flow.subscribing.feed import Feeds
from broker.flow.subscribing.keep import Keeping
from broker.flow.subscribing.material import Material
from broker.flow.subscribing.moves import Word
from broker.flow.subscribing.notices import Notices
from broker.flow.subscribing.offers import Offers
from broker.flow.subscribing.posting import Posting
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.service import Service
from broker.flow.subscribing.starts import Starts
from broker.flow.subscribing.tell import Teller
from broker.plugins import Channels
from broker.store import Store
from broker.store.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator has said of subscriptions."""

    topics: Sequence[Topic]
    delivery: Policy  # of notifications
    policy: life.Policy
    event: Event = EVENT
    cap: Callable[[str], Content] = lambda owner: Content.ID_ONLY  # the most that a party is told now
    callback: Callable[[Subscription], str] = lambda subscription: ""  # where a webhook may consent later
    token: timedelta = timedelta(minutes=30)  # how long a binding token of a socket is good for
    channels: Mapping[tuple[str, str], ChannelOffer] = field(default_factory=dict)  # what may be asked for
    may_point_at: Callable[[str], bool] = lambda endpoint: False  # the operator's list
    most: int = 10_000  # subscriptions
    heartbeat: timedelta = timedelta(seconds=10)  # the closest that is served
    sockets: Callable[[], str] = lambda: ""  # the URL of the channel that has some


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribing:
    telling: Telling
    registry: Registry
    composing: Composing
    notices: Notices
    feeds: Feeds
    teller: Teller
    keeping: Keeping
    service: Service

    async def load(self) -> None:
        """All subscriptions, and what is under way for them; before anything is carried."""
        self.registry.load(await self.telling.subscribed())
        self.notices.load()
        await self.teller.start()


def join(
    *,
    here: Here,
    store: Store,
    telling: Telling,
    terms: Terms,
    channels: Channels,
    planning: Planning,
    directory: Callable[[], Whereabouts],
    rules: RuleSet,
    delivering: Delivering,
    aside: Aside,
    defaults: Policy,
    meter: Meter,
    room: Callable[[], None],
) -> Subscribing:
    registry = Registry(terms.topics)
    composing = Composing(
        here=here,
        material=Material(store=store, ids=here.ids, base_url=here.base_url),
        topic_of=registry.topic_of,
        event=terms.event,
        cap=terms.cap,
        callback=terms.callback,
    )
    posting = Posting(
        here=here, channels=channels, planning=planning, directory=directory, rules=rules, policy=terms.delivery,
        may_point_at=terms.may_point_at,
    )  # fmt: skip
    starts = Starts(here.now)
    notices = Notices(
        here=here, store=store, telling=telling, registry=registry, composing=composing, posting=posting,
        carrying=delivering, room=room, starts=starts, policy=terms.policy,
    )  # fmt: skip
    delivering.settling.notices = notices
    admitting = Admitting(here=here, registry=registry, key=store.key, good_for=terms.token)
    feeds = Feeds(
        here=here, store=telling, registry=registry, composing=composing, starts=starts, admitting=admitting,
        policy=terms.policy,
    )  # fmt: skip
    teller = Teller(here=here, store=telling, bodies=store, aside=aside, registry=registry, meter=meter)
    offers = Offers(
        base_url=here.base_url, channels=terms.channels, topic=registry.topic, may_point_at=terms.may_point_at,
        known=lambda name: directory().resolve(name, release=None, format=None, now=here.now()).known, cap=terms.cap,
        parties=here.parties, shortest_heartbeat=terms.heartbeat,
    )  # fmt: skip

    def happens(key: int, word: Word) -> None:
        row = registry.get(key)
        (feeds if row is not None and is_fed(row.subscription) else notices).happens(key, word)

    service = Service(
        here=here, store=telling, registry=registry, composing=composing, offers=offers, happens=happens,
        policy=terms.policy, most=terms.most, key=store.key, token=admitting.token, sockets=terms.sockets,
        room=room,
    )  # fmt: skip
    return Subscribing(
        telling=telling, registry=registry, composing=composing, notices=notices, feeds=feeds, teller=teller,
        keeping=Keeping(here=here, registry=registry, policy=defaults), service=service,
    )  # fmt: skip

"""Adds the FHIR reading side to the partner-facing application, on all four bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from aiohttp import web

from broker import __version__
from broker.api.asking import Here, reader_address
from broker.api.bundles import Bundles
from broker.api.directory_resources import DirectoryResources
from broker.api.mailbox import Followers, Mailboxes
from broker.api.metadata import Metadata
from broker.api.status import Statuses, Withdraw
from broker.api.subscription_operations import SubscriptionOperations
from broker.api.subscription_service import Owner, SubscriptionService, nobody
from broker.api.subscription_topics import TopicResources
from broker.api.subscriptions import SubscriptionResources
from broker.core.outcome import StoreUnavailable
from broker.directory import Snapshot
from broker.store import Store, StoreError
from broker.store.shared_reads import SharedReads
from broker.web import Handler, add_fhir_route

RETRY_STORE = 10.0  # seconds
Add = Callable[[str, str, Handler], None]  # methods, path, handler


def add_fhir(
    app: web.Application,
    *,
    here: Here,
    store: Store,
    reads: SharedReads,
    followers: Followers,
    directory: Callable[[], Snapshot],
    withdraw: Withdraw,
    endpoints: Sequence[tuple[str, str]] = (),
    reliable_cache_minutes: int = 90 * 24 * 60,
    events: Sequence[str] = (),
    reader: Callable[[web.Request], str] = reader_address,
    subscriptions: SubscriptionService | None = None,
    owner: Owner = nobody,
) -> None:
    """Everything that is read under the FHIR base, and what is asked of subscriptions, where any are served.

    `endpoints` are pairs of protocol code and address for the CapabilityStatement (none: this base),
    `reliable_cache_minutes` is how long identities are remembered, `reader` says who reads, `owner` whose the
    subscriptions are.
    """
    mailboxes = Mailboxes(here=here, store=store, reads=reads, followers=followers, reader=reader)
    bundles = Bundles(here=here, store=store, reader=reader)
    statuses = Statuses(here=here, store=store, withdraw=withdraw, reader=reader)
    resources = DirectoryResources(here=here, directory=directory)
    metadata = Metadata(
        here=here,
        software_version=__version__,
        endpoints=endpoints,
        reliable_cache_minutes=reliable_cache_minutes,
        events=events,
        subscriptions=subscriptions,
    )

    def add(methods: str, path: str, handler: Handler) -> None:
        for method in methods.split():
            add_fhir_route(app, method, path, _with_store(handler))

    add("GET HEAD", "/Bundle", mailboxes.search)
    add("POST", "/Bundle/_search", mailboxes.search)
    add("GET HEAD", "/Bundle/{id}", bundles.read)
    add("POST", "/Bundle/{id}/$acknowledge", bundles.acknowledge)
    add("GET HEAD", "/status/{id}", statuses.status)
    add("DELETE", "/status/{id}", statuses.delete)
    add("GET HEAD", "/status/{id}/outcome", statuses.outcome)
    add("GET HEAD", "/metadata", metadata.statement)
    for type in ("Endpoint", "Organization"):
        add("GET HEAD", f"/{type}", partial(resources.search, type))
        add("POST", f"/{type}/_search", partial(resources.search, type))
        add("GET HEAD", f"/{type}/{{id}}", partial(resources.read, type))
    if subscriptions is not None:
        _add_subscriptions(add, here, subscriptions, owner)


def _add_subscriptions(add: Add, here: Here, service: SubscriptionService, owner: Owner) -> None:
    resources = SubscriptionResources(here=here, service=service, owner=owner)
    operations = SubscriptionOperations(here=here, service=service, owner=owner)
    topics = TopicResources(here=here, service=service)
    add("POST", "/Subscription", resources.create)
    add("GET HEAD", "/Subscription", resources.search)
    add("POST", "/Subscription/_search", resources.search)
    add("GET POST", "/Subscription/$status", operations.status)
    add("GET POST", "/Subscription/$get-ws-binding-token", operations.token)
    add("GET HEAD", "/Subscription/{id}", resources.read)
    add("PUT", "/Subscription/{id}", resources.update)
    add("DELETE", "/Subscription/{id}", resources.delete)
    add("GET POST", "/Subscription/{id}/$status", operations.status)
    add("GET POST", "/Subscription/{id}/$events", operations.events)
    add("GET POST", "/Subscription/{id}/$get-ws-binding-token", operations.token)
    add("POST", "/Subscription/{id}/$resend", operations.resend)
    add("GET POST", "/consent/{token}", operations.consented)  # no HEAD: to look is not to consent
    add("GET HEAD", "/SubscriptionTopic", topics.search)
    add("POST", "/SubscriptionTopic/_search", topics.search)
    add("GET HEAD", "/SubscriptionTopic/{id}", topics.read)


def _with_store(handler: Handler) -> Handler:
    """The store's trouble is said as ours, and as passing."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except StoreError as error:
            raise StoreUnavailable(
                "the store does not answer now; ask again later", retry_after=RETRY_STORE, diagnostics=str(error)
            ) from error

    return handle

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
from broker.core.outcome import StoreUnavailable
from broker.directory import Snapshot
from broker.store import Store, StoreError
from broker.store.shared_reads import SharedReads
from broker.web import Handler, add_fhir_route

RETRY_STORE = 10.0  # seconds


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
) -> None:
    """Everything that is read under the FHIR base.

    `endpoints` are pairs of protocol code and address for the CapabilityStatement (none: this base),
    `reliable_cache_minutes` is how long identities are remembered, `reader` says who reads.
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

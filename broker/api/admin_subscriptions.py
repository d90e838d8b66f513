"""Subscriptions, as an operator sees them: who is told of what, how far behind, in which trouble; and off and on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from broker.api.admin_frame import AdminError, as_json, number_of, object_of, text_of
from broker.api.admin_parts import Parts
from broker.api.subscription_service import SubscriptionService
from broker.core.outcome import NotFound
from broker.core.subscription.subscription import Status
from broker.store.telling import Notice, Subscribed

PAGE, MOST = 50, 500
LONGEST_REASON = 500  # characters
LARGEST_KEY = 1 << 62


class Subscriptions:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def _service(self) -> SubscriptionService:
        service = self._parts.subscriptions
        if service is None:
            text = "no subscriptions are served: the configuration has no block `subscriptions:`"
            raise AdminError(404, "no-subscriptions", text)
        return service

    async def list(self, request: web.Request) -> web.Response:
        """As they were created; secrets are never among what is shown."""
        after = number_of(request, "after", 0, most=LARGEST_KEY)
        limit = number_of(request, "limit", PAGE, least=1, most=MOST)
        status = text_of(request, "status")
        if status is not None and status not in tuple(Status):
            raise AdminError(400, "bad-request", f"the parameter status is one of {', '.join(Status)}")
        rows = [row for row in self._service.all(None) if row.key > after and status in (None, row.life.status.value)]
        page = rows[:limit]
        return as_json({
            "subscriptions": [self._told(row) for row in page],
            "total": len(self._service.all(None)),
            "next": page[-1].key if len(rows) > limit else None,
        })  # fmt: skip

    async def show(self, request: web.Request) -> web.Response:
        """One, with the notification that is on its way to it."""
        row = self._row(request)
        return as_json({**self._told(row), "notice": await self._notice(row.notice)})

    async def off(self, request: web.Request) -> web.Response:
        """Nothing is sent or counted for it any more, until its client or the operator switches it on."""
        row = self._row(request)
        body = await object_of(request)
        reason = body.get("reason") or ""
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON or set(body) - {"reason"}:
            text = f"the body knows `reason`, a text of up to {LONGEST_REASON} characters, and nothing else"
            raise AdminError(400, "bad-request", text)
        id = row.subscription.id
        return as_json(self._told(await self._service.switch(id, on=False, why=" ".join(reason.split()))))

    async def on(self, request: web.Request) -> web.Response:
        """It is greeted anew, and goes on where it stopped, as if its client had written `requested`."""
        row = self._row(request)
        return as_json(self._told(await self._service.switch(row.subscription.id, on=True)))

    def _row(self, request: web.Request) -> Subscribed:
        try:
            return self._service.get(request.match_info["id"], None)
        except NotFound:
            text = "no subscription has this id; `GET /admin/v1/subscriptions` lists them"
            raise AdminError(404, "unknown-subscription", text) from None

    def _told(self, row: Subscribed) -> dict[str, Any]:
        subscription, life = row.subscription, row.life
        return {
            "id": subscription.id,
            "model": subscription.model.value,
            "fhir": subscription.release.value,
            "topic": subscription.topic or None,
            "criteria": subscription.criteria or None,
            "filters": [str(one) for one in subscription.filters],
            "channel": str(subscription.channel),
            "endpoint": _shown(subscription.endpoint),
            "content": None if subscription.content is None else subscription.content.value,
            "owner": row.owner or None,
            "version": row.version,
            "changed": row.changed,
            "end": subscription.end,
            "status": life.status.value,
            "since": life.since,
            "error": life.error or None,
            "failures": life.failures,
            "gap": life.has_gap,
            "counted": row.counted,
            "sent": row.sent,
            "behind": row.counted - row.sent,
            "last_sent": life.last_sent,
            "next": self._service.due(row),
        }

    async def _notice(self, notice: Notice | None) -> dict[str, Any] | None:
        if notice is None:
            return None
        deliveries = await self._parts.store.deliveries(notice.position)
        delivery = next((one for one in deliveries if one.number == notice.number), None)
        step = delivery.steps[-1] if delivery is not None and delivery.steps else None
        return {
            "id": self._parts.here.ids.of(notice.position),
            "kind": notice.kind.value,
            "first": notice.first or None,
            "last": notice.last or None,
            "attempts": 0 if delivery is None else delivery.attempts,
            "due": None if delivery is None else delivery.due,
            "note": None if step is None else step.note or step.what,
        }


def _shown(endpoint: str) -> str | None:
    """Without a query, where people put keys."""
    if "://" in endpoint and "?" in endpoint:
        return endpoint.partition("?")[0] + "?…"
    return endpoint or None


class Told:
    """What metrics say of subscriptions; no label is a subscription."""

    def __init__(self, service: SubscriptionService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        rows = self._service.all(None)
        counts = dict.fromkeys((status.value for status in Status), 0)
        for row in rows:
            counts[row.life.status.value] += 1
        by_status = GaugeMetricFamily("fhir_broker_subscriptions", "Subscriptions, by status.", labels=["status"])
        for status, count in counts.items():
            by_status.add_metric([status], count)
        yield by_status
        behind = sum(row.counted - row.sent for row in rows if row.life.counts)
        yield GaugeMetricFamily(
            "fhir_broker_subscription_events_behind", "Events counted for subscribers and not sent yet.", value=behind
        )

"""The spelling of R5 and later (spec section 2)."""

from __future__ import annotations

from broker.core.fhir.header import Release
from broker.core.subscription.elements import Element
from broker.core.subscription.read_r4 import channel_type, checked_headers, content_of, kept, status_of
from broker.core.subscription.subscription import OWN_CHANNELS, ChannelType, Filter, Header, Model, Subscription

OURS = (
    *("resourceType", "id", "status", "topic", "end", "reason", "filterBy", "channelType", "endpoint", "parameter"),
    *("heartbeatPeriod", "timeout", "contentType", "content", "maxCount"),
)
REPEATED = ("identifier", "contact", "contained")
DEFINITION = "http://hl7.org/fhir/StructureDefinition/"


def read_r5(element: Element, *, release: Release) -> Subscription:
    channel = element.element("channelType")
    if channel is None:
        element.complain.missing("Subscription.channelType")
    if "header" in element.values:
        element.complain(
            "Subscription.header", "is no element of R5: write Subscription.parameter with name and value."
        )
    return Subscription(
        model=Model.NATIVE,
        release=release if release.identifies_by_bundle_identifier else Release.R5,
        id=element.text("id"),
        status=status_of(element),
        topic=element.text("topic", required=True),
        filters=tuple(_filter(one) for one in element.elements("filterBy")),
        channel=ChannelType(OWN_CHANNELS, "") if channel is None else channel_type(channel),
        endpoint=element.text("endpoint"),
        headers=_headers(element),
        media_type=element.text("contentType"),
        content=content_of(element, "content") if "content" in element.values else None,
        heartbeat=element.seconds("heartbeatPeriod"),
        timeout=element.seconds("timeout"),
        max_count=element.whole("maxCount", least=1),
        end=element.instant("end"),
        reason=element.text("reason"),
        kept=kept(element, OURS, REPEATED),
    )


def _filter(element: Element) -> Filter:
    return Filter(
        resource_type=element.text("resourceType").removeprefix(DEFINITION),
        parameter=element.text("filterParameter", required=True),
        comparator=element.text("comparator"),
        modifier=element.text("modifier"),
        value=element.text("value", required=True),
    )


def _headers(element: Element) -> tuple[Header, ...]:
    found = [
        Header(one.text("name", required=True), one.text("value", required=True))
        for one in element.elements("parameter")
    ]
    return checked_headers(found, "Subscription.parameter", element.complain)

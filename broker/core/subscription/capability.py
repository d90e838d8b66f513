"""What a CapabilityStatement says of subscriptions, release by release (S-11, S-42, spec section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.core.fhir.capability import SearchParam
from broker.core.fhir.header import Release
from broker.core.fhir.write import Resource
from broker.core.subscription.subscription import PROFILE
from broker.core.subscription.topic import Topic
from broker.core.subscription.topic_resource import advertised

WEBSOCKET = "http://hl7.org/fhir/StructureDefinition/capabilitystatement-websocket"
RESEND = "urn:x-fhir-broker:operation:resend"
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-"
_R5 = "http://hl7.org/fhir/OperationDefinition/Subscription-"

_COMMON = (
    SearchParam("_id", "token", "The id of the Subscription."),
    SearchParam("_lastUpdated", "date", "When its client wrote it last."),
    SearchParam("status", "token", "Where it stands now: requested, active, error or off."),
    SearchParam("type", "token", "The channel, as code or system|code."),
    SearchParam("url", "uri", "The endpoint that is told."),
    SearchParam("payload", "token", "The media type of what is told."),
    SearchParam("contact", "token", "A contact's value, as value or system|value."),
)
_OF_R4 = (SearchParam("criteria", "string", "The search string, or the topic: what it begins with."),)
_OF_R5 = (
    SearchParam("topic", "uri", "The canonical of the topic, with or without its version."),
    SearchParam("content-level", "token", "empty, id-only or full-resource."),
)
TOPIC_PARAMS = (
    SearchParam("_id", "token", "The id of the SubscriptionTopic."),
    SearchParam("url", "uri", "The canonical by which it is subscribed to."),
    SearchParam("version", "token", "Its version."),
    SearchParam("status", "token", "draft, active or unknown."),
    SearchParam("title", "string", "What its title begins with."),
    SearchParam("resource", "uri", "A type of resource that it tells of, as Encounter or its definition."),
)


def subscription_params(release: Release) -> tuple[SearchParam, ...]:
    return (*_COMMON, *(_OF_R5 if release.identifies_by_bundle_identifier else _OF_R4))


def subscription_resources(
    release: Release, topics: Iterable[Topic], paging: Sequence[SearchParam], *, sockets: bool
) -> list[Resource]:
    """The entries of `rest.resource`; `sockets`: whether there is a channel that binds tokens."""
    r5 = release.identifies_by_bundle_identifier
    resource: Resource = {}
    if release is Release.R4:  # it has no resource for topics: they stand here
        extensions = advertised(topics)
        if extensions:
            resource["extension"] = extensions
    resource["type"] = "Subscription"
    if not r5:
        resource["supportedProfile"] = [PROFILE]
    resource |= {
        "documentation": "Of messages that pass through. Headers and parameters are taken for secrets: never shown.",
        "interaction": [{"code": code} for code in ("create", "read", "update", "delete", "search-type")],
        "versioning": "versioned",
        "readHistory": False,
        "updateCreate": False,
        "conditionalCreate": False,
        "searchParam": [one._asdict() for one in (*subscription_params(release), *paging)],
        "operation": _operations(_R5 if r5 else _BACKPORT, sockets=sockets),
    }
    if release is Release.R4:
        return [resource]
    topic: Resource = {
        "type": "SubscriptionTopic",
        "documentation": "What may be subscribed to, as this broker understands it.",
        "interaction": [{"code": code} for code in ("read", "search-type")],
        "versioning": "no-version",
        "searchParam": [one._asdict() for one in (*TOPIC_PARAMS, *paging)],
    }
    return [resource, topic]


def _operations(base: str, *, sockets: bool) -> list[Resource]:
    found: list[Resource] = [{"name": name, "definition": base + name} for name in ("status", "events")]
    if sockets:
        found.append({"name": "get-ws-binding-token", "definition": f"{base}get-ws-binding-token"})
    said = "POST [base]/Subscription/[id]/$resend: by number or time; what follows comes once more over the channel."
    return [*found, {"name": "resend", "definition": RESEND, "documentation": said}]


def websocket_extension(url: str) -> Resource:
    """Where R4's classic Subscriptions are bound (S-42)."""
    return {"url": WEBSOCKET, "valueUri": url}

"""SubscriptionTopic resources of R4B and R5: read as topics, and topics written as such (S-55 to S-57)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import Resource
from broker.core.subscription import query
from broker.core.subscription.compare import PREFIXES
from broker.core.subscription.elements import Complaints, Element, Values
from broker.core.subscription.fhirpath import Path, path_of
from broker.core.subscription.read import resource_of
from broker.core.subscription.topic import (
    ALL_INTERACTIONS,
    EventTrigger,
    FilterBy,
    Interaction,
    ResourceTrigger,
    Shape,
    Topic,
)

DEFINITION = "http://hl7.org/fhir/StructureDefinition/"
RELATED = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-related-query"
ADVERTISED = (
    "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
)
RELAYED = "urn:x-fhir-broker:relayed"  # our extension of a topic that another server tells of: true, or a way in
_WAY_IN = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def read_topic(body: bytes, *, format: Format, without_previous: bool = False) -> Topic:
    """The topic in a resource; raises SubscriptionRefused with all that is wrong or needs a state that nobody holds.

    `without_previous`: rules over the state before are left out instead of refused; the operator says so, knowing that
    the topic then fires more often than it was written to.
    """
    values = resource_of(body, format=format, type="SubscriptionTopic")
    complain = Complaints()
    topic = _topic(Element(values, "SubscriptionTopic", complain), body, without_previous)
    complain.raise_if_any()
    return topic


def _topic(element: Element, body: bytes, without_previous: bool) -> Topic:
    relayed, way_in = _relayed(element)
    resources: tuple[ResourceTrigger, ...] = ()
    events: tuple[EventTrigger, ...] = ()
    if not relayed:  # its triggers are what that server goes by, and may ask for what only it can know
        resources = tuple(_resource(one, without_previous) for one in element.elements("resourceTrigger"))
        events = tuple(trigger for one in element.elements("eventTrigger") for trigger in _event(one))
    if not resources and not events and not relayed:
        element.complain(element.where, "has no trigger: without one it never tells of anything.", code="required")
    status = element.text("status") or "unknown"
    if status == "retired":
        element.complain(element.at("status"), "is retired: it takes no subscriptions.")
    return Topic(
        url=element.text("url", required=True),
        version=element.text("version"),
        title=element.text("title"),
        description=element.text("description"),
        status=status,
        events=events,
        resources=resources,
        filters=tuple(_filter(one) for one in element.elements("canFilterBy")),
        shapes=tuple(_shape(one) for one in element.elements("notificationShape")),
        query=next((found for one in element.elements("notificationShape") for found in _queries(one)), ""),
        source=body,
        relayed=relayed,
        way_in=way_in,
    )


def _relayed(element: Element) -> tuple[bool, str]:
    for one in element.extensions(RELAYED):
        return relayed_of(one, one.values.get("valueBoolean", one.values.get("valueString")))
    return False, ""


def relayed_of(element: Element, value: object) -> tuple[bool, str]:
    """Whether other servers tell of a topic, and the name of the way in by which they may do so."""
    if isinstance(value, bool) or value in ("true", "false"):  # a reader that keeps places hands over texts
        return value is True or value == "true", ""
    if isinstance(value, str) and _WAY_IN.fullmatch(value):
        return True, value
    element.complain(element.at("relayed"), "must be true, or a NAME (letters, digits, - _ .) of the way in /in/NAME.")
    return False, ""


def type_of(element: Element, name: str, *, required: bool = False) -> str:
    """A resource type, as `Encounter` or by its StructureDefinition."""
    return element.text(name, required=required).removeprefix(DEFINITION)


def interactions_of(element: Element, name: str) -> tuple[Interaction, ...]:
    found = []
    for text in element.texts(name):
        try:
            found.append(Interaction(text))
        except ValueError:
            element.complain(element.at(name), "must be create, update or delete.", code="code-invalid")
    return tuple(found) or ALL_INTERACTIONS


def conditions_of(element: Element, name: str, resource: str) -> tuple[query.Condition, ...]:
    """Search criteria of a trigger; what cannot be evaluated is complained about."""
    text = element.text(name)
    try:
        return query.conditions_of(text, resource)
    except query.NotEvaluable as error:
        element.complain(element.at(name), str(error), id="rule-not-evaluable", code="not-supported")
        return ()


def fhirpath_of(element: Element, name: str, resource: str) -> Path | None:
    text = element.text(name)
    if not text:
        return None
    try:
        return path_of(text, resource)
    except query.NotEvaluable as error:
        element.complain(element.at(name), str(error), id="rule-not-evaluable", code="not-supported")
        return None


def _event(element: Element) -> list[EventTrigger]:
    """One trigger for each coding of the event: they mean the same, and a message has one of them."""
    event, focus = element.element("event"), type_of(element, "resource")
    if focus == "Resource":  # of whatever type
        focus = ""
    if event is None:
        element.complain.missing(element.at("event"))
        return []
    codings = list(event.elements("coding"))
    if not codings:
        element.complain.missing(event.at("coding"))
    names = [(coding.text("system"), coding.text("code", required=True)) for coding in codings]
    return [EventTrigger(event=f"{system}|{code}" if system else code, focus=focus) for system, code in names]


def _resource(element: Element, without_previous: bool) -> ResourceTrigger:
    resource = type_of(element, "resource", required=True)
    interactions = interactions_of(element, "supportedInteraction")
    criteria = element.element("queryCriteria")
    path = fhirpath_of(element, "fhirPathCriteria", resource)
    if path is not None and path.needs_previous and not without_previous:
        _needs_previous(element, "fhirPathCriteria")
    unconditional: tuple[Interaction, ...] = ()
    conditions: tuple[query.Condition, ...] = ()
    if criteria is not None:
        conditions = conditions_of(criteria, "current", resource)
        interactions, unconditional = _by_criteria(element, criteria, interactions, without_previous)
    return ResourceTrigger(
        resource=resource,
        interactions=interactions,
        conditions=conditions,
        path=path,
        unconditional=unconditional,
        where="" if criteria is None else criteria.text("current"),
    )


def _by_criteria(
    element: Element, criteria: Element, interactions: tuple[Interaction, ...], without_previous: bool
) -> tuple[tuple[Interaction, ...], tuple[Interaction, ...]]:
    """What is left of the interactions, and which fire without a test (S-56).

    Of a new resource the state before is missing, of a deleted one the state after: there the topic itself says what
    the test comes to. In all other cases a rule over the state before needs a state that we do not hold (S-57).
    """
    has_previous, has_current = bool(criteria.text("previous")), bool(criteria.text("current"))
    both = criteria.values.get("requireBoth") is True
    created = criteria.text("resultForCreate") != "test-fails"
    deleted = criteria.text("resultForDelete") == "test-passes"
    left, unconditional = list(interactions), []
    if has_previous and not without_previous:
        if set(interactions) != {Interaction.CREATE}:
            _needs_previous(criteria, "previous")
        elif both and not created:
            left.remove(Interaction.CREATE)
        elif created and not both:
            unconditional.append(Interaction.CREATE)
    if has_current and Interaction.DELETE in left:
        if deleted:
            unconditional.append(Interaction.DELETE)
        else:
            left.remove(Interaction.DELETE)
    if not left:
        element.complain(element.where, "can never fire: its criteria fail for all its interactions.")
    return tuple(left), tuple(unconditional)


def _needs_previous(element: Element, name: str) -> None:
    element.complain(
        element.at(name),
        "needs the state before, which a broker does not hold: write a topic without it, "
        "or say in the configuration that rules over the state before are to be left out.",
        id="needs-previous-state",
        code="not-supported",
    )


def _filter(element: Element) -> FilterBy:
    modifiers = element.texts("modifier")
    comparators = element.texts("comparator")
    return FilterBy(
        parameter=element.text("filterParameter", required=True),
        resource=type_of(element, "resource"),
        comparators=(*comparators, *(one for one in modifiers if one in PREFIXES)),  # R4B has no element for them
        modifiers=tuple(one for one in modifiers if one not in PREFIXES and one != "="),
        description=element.text("description"),
        definition=element.text("filterDefinition"),
    )


def _shape(element: Element) -> Shape:
    return Shape(
        resource=type_of(element, "resource", required=True),
        include=element.texts("include"),
        rev_include=element.texts("revInclude"),
    )


def _queries(element: Element) -> Iterable[str]:
    """What the backport says may be asked of the data source, if a time belongs in it (S-57a)."""
    for related in element.extensions(RELATED):
        for one in related.extensions("query"):
            text = one.text("valueString")
            if "{since}" in text:
                yield text


# --- written ---


def write_topic(topic: Topic, *, release: Release, id: str) -> Resource:
    """The topic as a SubscriptionTopic of R4B or R5."""
    resource: Values = {"resourceType": "SubscriptionTopic", "id": id, "url": topic.url}
    for name in ("version", "title"):
        if getattr(topic, name):
            resource[name] = getattr(topic, name)
    resource["status"] = topic.status
    if topic.description:
        resource["description"] = topic.description
    if topic.resources:
        resource["resourceTrigger"] = [_written_trigger(one) for one in topic.resources]
    if topic.events:
        resource["eventTrigger"] = [_written_event(one) for one in topic.events]
    if topic.filters:
        resource["canFilterBy"] = [_written_filter(one, release) for one in topic.filters]
    shapes = [_written_shape(one) for one in topic.shapes]
    if topic.query and not shapes:
        shapes = [{"resource": next(iter(sorted(topic.focus_types)), "Bundle")}]
    if topic.query:
        inner = [{"url": "query", "valueString": topic.query}]
        shapes[0] = {"extension": [{"extension": inner, "url": RELATED}], **shapes[0]}
    if shapes:
        resource["notificationShape"] = shapes
    return resource


def _written_trigger(one: ResourceTrigger) -> Resource:
    found: Resource = {"resource": one.resource, "supportedInteraction": [each.value for each in one.interactions]}
    if one.where:
        passes = "test-passes" if Interaction.DELETE in one.unconditional else "test-fails"
        found["queryCriteria"] = {"current": one.where, "resultForDelete": passes}
    if one.path is not None:
        found["fhirPathCriteria"] = one.path.text
    return found


def _written_event(one: EventTrigger) -> Resource:
    system, mark, code = one.event.rpartition("|")
    coding = {"system": system, "code": code} if mark else {"code": one.event}
    return {"event": {"coding": [coding]}, "resource": one.focus or "Resource"}


def _written_filter(one: FilterBy, release: Release) -> Resource:
    found: Resource = {}
    for name, text in (("description", one.description), ("resource", one.resource)):
        if text:
            found[name] = text
    found["filterParameter"] = one.parameter
    if release.identifies_by_bundle_identifier:
        lists = {"comparator": one.comparators, "modifier": one.modifiers}
        if one.definition:
            found["filterDefinition"] = one.definition
    else:
        lists = {"modifier": (*one.comparators, *one.modifiers)}
    return found | {name: list(codes) for name, codes in lists.items() if codes}


def _written_shape(one: Shape) -> Resource:
    lists = {"include": one.include, "revInclude": one.rev_include}
    return {"resource": one.resource, **{name: list(texts) for name, texts in lists.items() if texts}}


def advertised(topics: Iterable[Topic]) -> list[Resource]:
    """Extensions for `Subscription` in R4's CapabilityStatement, where no resource names the topics (S-11)."""
    return [{"url": ADVERTISED, "valueCanonical": topic.url} for topic in topics]

"""Our own short form of a topic: a few lines of YAML, read by the configuration, as values here.

url: http://north.example/topics/admission
on:
  - event: admit                       # code, or system|code; focus, where and fhirpath may follow
    focus: Encounter
  - resource: Encounter                # inside any message; `only_focus` for what MessageHeader.focus names
    interactions: [create, update]
    where: status=in-progress
interactions: {admit: create}          # what an event means for the resources of its message
filters: [patient, {parameter: ward, paths: [location.location], type: reference}]
send: {Encounter: [Encounter:patient, Observation:encounter]}
query: https://source.example/fhir/Encounter?_lastUpdated=gt{since}
spread: 30s
source_rate: 50
relayed: true                          # another server tells of it (S-24): `on` may be left out; or a NAME: /in/NAME
"""

from __future__ import annotations

import re
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from broker.core.subscription.elements import Complaints, Element, listed
from broker.core.subscription.fhirpath import Path
from broker.core.subscription.parameters import Kind
from broker.core.subscription.topic import EventTrigger, FilterBy, Interaction, ResourceTrigger, Shape, Topic
from broker.core.subscription.topic_resource import conditions_of, fhirpath_of, interactions_of, relayed_of

_KEYS = (
    *("url", "version", "title", "description", "on", "interactions", "filters", "send", "query", "spread"),
    *("source_rate", "relayed"),
)
_EVENT = ("event", "focus", "where", "fhirpath")
_RESOURCE = ("resource", "interactions", "where", "fhirpath", "only_focus")
_FILTER = ("parameter", "resource", "comparators", "modifiers", "description", "paths", "type")
_DURATION = re.compile(r"(\d{1,6})(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*")
_NUMBER = re.compile(r"\d{1,7}(\.\d{1,6})?")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
LONGEST_SPREAD = timedelta(hours=1)


def topic_from(values: Any, *, where: str = "topic") -> Topic:
    """The topic in the values of its short form; raises SubscriptionRefused, every mistake by its key."""
    complain = Complaints()
    element = Element(values, where, complain)
    _known(element, _KEYS)
    relayed, way_in = relayed_of(element, element.values.get("relayed", False))
    events, resources = _triggers(element, relayed)
    topic = Topic(
        url=element.text("url", required=True),
        version=element.text("version"),
        title=element.text("title"),
        description=element.text("description"),
        events=events,
        resources=resources,
        interactions=_interactions(element),
        filters=tuple(_filters(element)),
        shapes=tuple(_shapes(element)),
        query=_query(element),
        spread=_spread(element),
        source_rate=_rate(element),
        relayed=relayed,
        way_in=way_in,
    )
    if topic.url and (":" not in topic.url or "|" in topic.url):
        complain(element.at("url"), "must be an absolute URI without a version: subscribers name the topic by it.")
    complain.raise_if_any()
    return topic


def _known(element: Element, keys: tuple[str, ...]) -> None:
    for name in element.values:
        if name not in keys:
            close = get_close_matches(str(name), keys, n=1)
            meant = f"; is {close[0]!r} meant?" if close else f"; known are {', '.join(keys)}."
            element.complain(element.at(str(name)), f"is not known{meant}", id="unknown-key", code="structure")


def _triggers(element: Element, relayed: bool) -> tuple[tuple[EventTrigger, ...], tuple[ResourceTrigger, ...]]:
    events: list[EventTrigger] = []
    resources: list[ResourceTrigger] = []
    for one in element.elements("on"):
        if "event" in one.values:
            events.append(_event(one))
        elif "resource" in one.values:
            resources.append(_resource(one))
        else:
            one.complain(one.where, "must say `event` or `resource`.", id="missing-element", code="required")
    if not (events or resources or relayed or element.values.get("on")):
        why = (
            "without a trigger a topic never tells of anything; `relayed: true` is for those that other servers tell of"
        )
        element.complain.missing(element.at("on"), why)
    return tuple(events), tuple(resources)


def _event(one: Element) -> EventTrigger:
    _known(one, _EVENT)
    focus = _type(one, "focus")
    if not focus and "where" in one.values:
        one.complain(one.at("where"), "needs `focus`: the type of resource that it is about.")
    return EventTrigger(
        event=one.text("event"),
        focus=focus,
        conditions=conditions_of(one, "where", focus) if focus else (),
        path=_path(one, focus),
        where=one.text("where"),
    )


def _resource(one: Element) -> ResourceTrigger:
    _known(one, _RESOURCE)
    resource = _type(one, "resource")
    interactions = interactions_of(one, "interactions")
    rules = "where" in one.values or "fhirpath" in one.values
    # Of what is deleted only its name comes: rules over its content are for the others, unless `delete` is said too.
    if rules and "interactions" not in one.values:
        interactions = (Interaction.CREATE, Interaction.UPDATE)
    return ResourceTrigger(
        resource=resource,
        interactions=interactions,
        conditions=conditions_of(one, "where", resource),
        path=_path(one, resource),
        unconditional=(Interaction.DELETE,) if Interaction.DELETE in interactions else (),
        only_focus=_flag(one, "only_focus"),
        where=one.text("where"),
    )


def _flag(one: Element, name: str) -> bool:
    value = one.values.get(name)
    if not (value is None or isinstance(value, bool) or value in ("true", "false")):
        one.complain(one.at(name), "must be true or false.", id="wrong-type", code="structure")
    return value is True or value == "true"


def _type(one: Element, name: str) -> str:
    text = one.text(name)
    if text and not _TYPE.fullmatch(text):
        one.complain(one.at(name), "must be a type of resource, as Encounter.")
    return text


def _path(one: Element, resource: str) -> Path | None:
    path = fhirpath_of(one, "fhirpath", resource)
    if path is not None and path.needs_previous:
        one.complain(one.at("fhirpath"), "asks for %previous, which is always empty here: leave it out.")
    return path


def _interactions(element: Element) -> tuple[tuple[str, Interaction], ...]:
    found = element.element("interactions")
    if found is None:
        return ()
    pairs = []
    for event in found.values:
        text = found.text(event)
        if text not in tuple(Interaction):
            found.complain(found.at(event), "must be create, update or delete.", code="code-invalid")
        else:
            pairs.append((event, Interaction(text)))
    return tuple(pairs)


def _filters(element: Element) -> list[FilterBy]:
    found = []
    for place, value in enumerate(listed(element.values.get("filters"))):
        one = Element(
            {"parameter": value} if isinstance(value, str) else value,
            f"{element.at('filters')}[{place}]",
            element.complain,
        )
        _known(one, _FILTER)
        paths, kind = one.texts("paths"), one.text("type")
        if bool(paths) is not bool(kind):
            one.complain(one.where, "must have `paths` and `type` together: where the values stand, and what they are.")
        elif kind and kind not in tuple(Kind):
            one.complain(one.at("type"), f"must be one of {', '.join(Kind)}.", code="code-invalid")
        elif not all(_PATH.fullmatch(path) for path in paths):
            one.complain(one.at("paths"), "must be names of elements with dots between them, as location.location.")
        found.append(
            FilterBy(
                parameter=one.text("parameter", required=True),
                resource=_type(one, "resource"),
                comparators=one.texts("comparators"),
                modifiers=one.texts("modifiers"),
                description=one.text("description"),
                paths=paths,
                type=kind,
            )
        )
    return found


def _shapes(element: Element) -> list[Shape]:
    """`Encounter: [Encounter:patient, Observation:encounter]`: of the focus type itself, or referring to it."""
    send = element.element("send")
    if send is None:
        return []
    found = []
    for resource in send.values:
        texts = send.texts(resource)
        if not all(":" in text for text in texts):
            send.complain(send.at(resource), "must be a list of Type:parameter, as Encounter:patient.")
        include = tuple(text for text in texts if text.startswith(f"{resource}:"))
        reverse = tuple(text for text in texts if not text.startswith(f"{resource}:"))
        found.append(Shape(resource=resource, include=include, rev_include=reverse))
    return found


def _query(element: Element) -> str:
    text = element.text("query")
    if text and ("{since}" not in text or not text.startswith(("https://", "http://"))):
        element.complain(element.at("query"), "must be a URL with {since} where the time belongs.")
    return text


def _spread(element: Element) -> timedelta:
    text = element.text("spread")
    match = _DURATION.fullmatch(text)
    spread = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else timedelta()
    if (text and not match) or spread > LONGEST_SPREAD:
        element.complain(element.at("spread"), "must be a duration up to an hour, as 30s.")
    return spread


def _rate(element: Element) -> float:
    value = element.values.get("source_rate")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    value = 0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1_000_000:
        element.complain(element.at("source_rate"), "must be a number of starts a second; 0 is no limit.")
        return 0.0
    return float(value)

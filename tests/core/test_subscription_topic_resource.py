from __future__ import annotations

from typing import Any

import orjson
import pytest
from subscribed import CANDLE, ENCOUNTERS
from written import validated

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import write
from broker.core.outcome import SubscriptionRefused
from broker.core.subscription.topic import EventTrigger, FilterBy, Interaction, ResourceTrigger, Topic, answers_to
from broker.core.subscription.topic_resource import RELATED, RELAYED, advertised, read_topic, write_topic

CREATE, UPDATE, DELETE = Interaction
EXAMPLES = ("SubscriptionTopic-encounter-complete", "SubscriptionTopic-encounter-complete-qualified")


def trigger(**criteria: Any) -> dict[str, Any]:
    interactions = criteria.pop("on", ["create", "update"])
    return {"resource": "Encounter", "supportedInteraction": interactions, "queryCriteria": criteria}


def topic(*triggers: dict[str, Any], **more: Any) -> dict[str, Any]:
    known = {"resourceType": "SubscriptionTopic", "url": "http://t", "status": "active"}
    return known | ({"resourceTrigger": list(triggers)} if triggers else {}) | more


def read(resource: dict[str, Any], **more: Any) -> Topic:
    return read_topic(orjson.dumps(resource), format=Format.JSON, **more)


def problems(resource: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    with pytest.raises(SubscriptionRefused) as raised:
        read(resource, **more)
    return [(one.expression[0].removeprefix("SubscriptionTopic."), one.id) for one in raised.value.problems]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_that_needs_the_state_before_is_refused_and_says_where(name: str) -> None:
    """S-57: both rules of fhir-candle's topic look at the state before."""
    found = problems(orjson.loads((CANDLE / f"{name}.json").read_bytes()))
    assert found == [
        ("resourceTrigger[0].fhirPathCriteria", "needs-previous-state"),
        ("resourceTrigger[0].queryCriteria.previous", "needs-previous-state"),
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_read_where_the_operator_leaves_the_state_before_out(name: str) -> None:
    body = (CANDLE / f"{name}.json").read_bytes()
    found = read_topic(body, format=Format.JSON, without_previous=True)
    assert (found.url, found.title, found.source) == (ENCOUNTERS, "encounter-complete", body)
    (one,) = found.resources
    assert (one.resource, one.interactions, one.unconditional) == ("Encounter", (CREATE, UPDATE), ())
    status = "finished" if "qualified" in name else "completed"
    assert one.conditions[0].holds({"resourceType": "Encounter", "status": status})
    assert one.path is not None
    assert one.path.holds({"resourceType": "Encounter", "status": status})
    assert [filter.resource for filter in found.filters] == ["Encounter"] * 3
    assert found.filters[2].comparators == ("gt", "lt", "ge", "le")  # R4B calls them modifiers
    assert found.filters[2].modifiers == ()
    assert found.shapes[0].include[0] == "Encounter:patient&iterate=Patient.link"


@pytest.mark.parametrize(
    ("criteria", "interactions", "unconditional"),
    [
        ({"current": "status=finished"}, (CREATE, UPDATE), ()),
        ({"current": "status=finished", "on": ["create", "delete"]}, (CREATE,), ()),
        ({"current": "status=finished", "on": ["create", "delete"], "resultForDelete": "test-passes"},
         (CREATE, DELETE), (DELETE,)),
        ({"on": ["delete"]}, (DELETE,), ()),
        ({"current": "status=finished", "previous": "status=x", "on": ["create"]}, (CREATE,), (CREATE,)),
        ({"current": "status=finished", "previous": "status=x", "on": ["create"], "requireBoth": True}, (CREATE,), ()),
        ({"current": "status=finished", "previous": "status=x", "on": ["create"], "resultForCreate": "test-fails"},
         (CREATE,), ()),
    ],
)  # fmt: skip
def test_missing_state_comes_to_what_the_topic_says(
    criteria: dict[str, Any], interactions: tuple[Interaction, ...], unconditional: tuple[Interaction, ...]
) -> None:
    """S-56."""
    (one,) = read(topic(trigger(**criteria))).resources
    assert (one.interactions, one.unconditional) == (interactions, unconditional)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (topic(), [("SubscriptionTopic", "invalid-value")]),
        (topic(trigger(previous="status=a")), [("resourceTrigger[0].queryCriteria.previous", "needs-previous-state")]),
        (topic(trigger(previous="status=a", on=["delete"])),
         [("resourceTrigger[0].queryCriteria.previous", "needs-previous-state")]),
        (topic(trigger(previous="a", current="_id=a", on=["create"], requireBoth=True, resultForCreate="test-fails")),
         [("resourceTrigger[0]", "invalid-value")]),
        (topic(trigger(current="status=a", on=["delete"])), [("resourceTrigger[0]", "invalid-value")]),
        (topic(trigger(current="_in=Group/1")), [("resourceTrigger[0].queryCriteria.current", "rule-not-evaluable")]),
        (topic({"resource": "Encounter", "fhirPathCriteria": "now() > @2026"}),
         [("resourceTrigger[0].fhirPathCriteria", "rule-not-evaluable")]),
        (topic({"resource": "Encounter", "supportedInteraction": ["read"]}),
         [("resourceTrigger[0].supportedInteraction", "invalid-value")]),
        (topic({}), [("resourceTrigger[0].resource", "missing-element")]),
        (topic(eventTrigger=[{}]),
         [("eventTrigger[0].event", "missing-element"), ("SubscriptionTopic", "invalid-value")]),
        (topic(eventTrigger=[{"event": {"text": "x"}}]),
         [("eventTrigger[0].event.coding", "missing-element"), ("SubscriptionTopic", "invalid-value")]),
        (topic(trigger(), status="retired"), [("status", "invalid-value")]),
        ({**topic(trigger()), "url": None}, [("url", "missing-element")]),
    ],
)  # fmt: skip
def test_each_refusal_names_its_element(resource: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = problems(resource)
    assert [(place.removeprefix("SubscriptionTopic."), id) for place, id in found] == expected


def test_event_trigger_is_one_for_each_coding() -> None:
    event = {"coding": [{"system": "urn:e", "code": "admit"}, {"code": "A01"}]}
    found = read(
        topic(eventTrigger=[{"event": event, "resource": "http://hl7.org/fhir/StructureDefinition/Encounter"}])
    )
    assert found.events == (
        EventTrigger(event="urn:e|admit", focus="Encounter"),
        EventTrigger(event="A01", focus="Encounter"),
    )
    assert found.focus_types == {"Encounter"}
    assert read(topic(eventTrigger=[{"event": event, "resource": "Resource"}])).focus_types == frozenset()


def test_query_of_the_backport_is_what_may_be_asked() -> None:
    """S-57a."""
    inner = [{"url": "query", "valueString": "https://s/Encounter?_lastUpdated=gt{since}"}]
    shapes = [{"resource": "Encounter"}, {"resource": "Encounter", "extension": [{"url": RELATED, "extension": inner}]}]
    found = read(topic(trigger(), notificationShape=shapes))
    assert found.query == "https://s/Encounter?_lastUpdated=gt{since}"
    assert found.offers_content_free()
    inner[0]["valueString"] = "https://s/Encounter/1"
    assert read(topic(trigger(), notificationShape=shapes)).query == ""


@pytest.mark.parametrize("release", [Release.R4B, Release.R5])
def test_written_topic_is_valid_and_read_as_the_same(release: Release) -> None:
    """S-11."""
    event = {"coding": [{"system": "urn:e", "code": "admit"}]}
    filters = [{"filterParameter": "length", "resource": "Encounter", "modifier": ["gt", "missing"]}]
    shapes = [{"resource": "Encounter", "include": ["Encounter:patient"], "revInclude": ["Observation:encounter"]}]
    whole = topic(
        {**trigger(current="status=finished", on=["create", "delete"], resultForDelete="test-passes"),
         "fhirPathCriteria": "status.exists()"},
        eventTrigger=[{"event": event, "resource": "Encounter"}],
        canFilterBy=filters,
        notificationShape=shapes,
        version="2",
        title="Finished",
        description="An encounter is finished",
    )  # fmt: skip
    one = read(whole)
    written = validated(write_topic(one, release=release, id="t1"), release)
    again = read_topic(write(written, Format.XML), format=Format.XML)
    for name in ("url", "version", "title", "description", "events", "resources", "filters", "shapes"):
        assert getattr(again, name) == getattr(one, name), name


@pytest.mark.parametrize("release", [Release.R4B, Release.R5])
def test_query_is_written_where_it_is_read(release: Release) -> None:
    one = Topic(url="http://t", events=(EventTrigger(event="admit"),), query="https://s/?x={since}")
    written = validated(write_topic(one, release=release, id="t1"), release)
    again = read(written)
    assert (again.query, again.events) == (one.query, one.events)


def test_topics_are_advertised_where_r4_has_no_resource_for_them() -> None:
    (extension,) = advertised([Topic(url="http://t", version="2")])
    assert extension["valueCanonical"] == "http://t"
    assert extension["url"].endswith("capabilitystatement-subscriptiontopic-canonical")


@pytest.mark.parametrize(
    ("canonical", "answers"),
    [("http://t", True), ("http://t|2", True), ("http://t|3", False), ("http://t2", False), ("", False)],
)
def test_topic_answers_to_its_canonical(canonical: str, answers: bool) -> None:
    """S-55."""
    assert answers_to(Topic(url="http://t", version="2"), canonical) is answers


def test_filter_is_found_for_its_type_or_for_any() -> None:
    one = Topic(url="http://t", filters=(FilterBy(parameter="a", resource="Patient"), FilterBy(parameter="b")))
    assert one.filter_by("a", "Patient") is one.filters[0]
    assert one.filter_by("a") is one.filters[0]
    assert one.filter_by("a", "Encounter") is None
    assert one.filter_by("b", "Encounter") is one.filters[1]


def test_least_topic_is_written_with_what_it_has() -> None:
    filters = (
        FilterBy(parameter="a", description="by a", definition="http://d", comparators=("gt",), modifiers=("not",)),
        FilterBy(parameter="b"),
    )
    one = Topic(url="http://t", filters=filters, resources=(ResourceTrigger(resource="Encounter"),))
    r5 = validated(write_topic(one, release=Release.R5, id="t"), Release.R5)
    r4b = validated(write_topic(one, release=Release.R4B, id="t"), Release.R4B)
    assert r5["canFilterBy"][0] == {
        "description": "by a",
        "filterParameter": "a",
        "filterDefinition": "http://d",
        "comparator": ["gt"],
        "modifier": ["not"],
    }
    assert r4b["canFilterBy"] == [
        {"description": "by a", "filterParameter": "a", "modifier": ["gt", "not"]},
        {"filterParameter": "b"},
    ]
    assert "title" not in r5


def test_triggers_of_another_server_are_its_own_business() -> None:
    """S-24: they may ask for what only that server can know."""
    resource = {
        "resourceType": "SubscriptionTopic", "url": "http://t", "status": "active",
        "extension": [{"url": RELAYED, "valueBoolean": True}],
        "resourceTrigger": [{"resource": "Encounter", "queryCriteria": {"previous": "status=planned"}}],
    }  # fmt: skip
    topic = read_topic(orjson.dumps(resource), format=Format.JSON)
    assert (topic.relayed, topic.way_in, topic.resources) == (True, "", ())
    resource["extension"] = [{"url": RELAYED, "valueString": "north"}]
    assert read_topic(orjson.dumps(resource), format=Format.JSON).way_in == "north"
    resource["extension"] = [{"url": RELAYED, "valueString": "no/name"}]
    with pytest.raises(SubscriptionRefused, match="relayed must be true"):
        read_topic(orjson.dumps(resource), format=Format.JSON)

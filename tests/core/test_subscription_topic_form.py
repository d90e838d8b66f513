from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from ruamel.yaml import YAML

from broker.core.outcome import SubscriptionRefused
from broker.core.subscription import topic_form
from broker.core.subscription.topic import FilterBy, Interaction
from broker.core.subscription.topic_form import topic_from

URL = "http://north.example/topics/admission"


def topic(**changed: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"url": URL, "on": [{"event": "admit"}]}
    return {name: value for name, value in (known | changed).items() if value is not None}


def problems(values: Any) -> list[tuple[str, str]]:
    with pytest.raises(SubscriptionRefused) as raised:
        topic_from(values)
    return [(one.expression[0].removeprefix("topic."), one.id) for one in raised.value.problems]


def test_example_of_its_own_description_is_read() -> None:
    """What the module shows is what works."""
    text = inspect.getdoc(topic_form)
    assert text is not None
    example = YAML(typ="safe").load(text.partition("\n\n")[2])
    found = topic_from(example)
    assert found.url == URL
    (event,), (resource,) = found.events, found.resources
    assert (event.event, event.focus) == ("admit", "Encounter")
    assert (resource.resource, resource.interactions) == ("Encounter", (Interaction.CREATE, Interaction.UPDATE))
    assert resource.conditions[0].holds({"resourceType": "Encounter", "status": "in-progress"})
    assert found.interactions == (("admit", Interaction.CREATE),)
    assert found.filters[0] == FilterBy(parameter="patient")
    assert found.filters[1].paths == ("location.location",)
    assert found.shapes[0].include == ("Encounter:patient",)
    assert found.shapes[0].rev_include == ("Observation:encounter",)
    assert found.offers_content_free()
    assert (found.spread, found.source_rate) == (timedelta(seconds=30), 50.0)


def test_least_form_has_a_name_and_a_trigger() -> None:
    found = topic_from(topic())
    assert (found.events[0].event, found.events[0].focus, found.filters) == ("admit", "", ())


def test_rules_over_content_leave_deletes_out_unless_they_are_named() -> None:
    ruled = topic(on=[{"resource": "Encounter", "where": "status=finished"}])
    assert topic_from(ruled).resources[0].interactions == (Interaction.CREATE, Interaction.UPDATE)
    named = topic(on=[{"resource": "Encounter", "where": "status=finished", "interactions": ["update", "delete"]}])
    (one,) = topic_from(named).resources
    assert one.interactions == (Interaction.UPDATE, Interaction.DELETE)
    assert one.unconditional == (Interaction.DELETE,)
    (plain,) = topic_from(topic(on=[{"resource": "Encounter", "only_focus": True}])).resources
    assert plain.interactions == tuple(Interaction)
    assert plain.only_focus


@pytest.mark.parametrize(
    ("text", "spread"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h", 3600)],
)
def test_spread_is_a_duration(text: str, spread: float) -> None:
    assert topic_from(topic(spread=text)).spread == timedelta(seconds=spread)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], [("topic", "wrong-type"), ("on", "missing-element"), ("url", "missing-element")]),
        (topic(url="admission"), [("url", "invalid-value")]),
        (topic(url=f"{URL}|2"), [("url", "invalid-value")]),
        (topic(urll=1), [("urll", "unknown-key")]),
        (topic(on=[{"events": "admit"}]), [("on[0]", "missing-element")]),
        (topic(on=[{"event": "admit", "focos": "x"}]), [("on[0].focos", "unknown-key")]),
        (topic(on=[{"event": "admit", "where": "status=a"}]), [("on[0].where", "invalid-value")]),
        (topic(on=[{"event": "admit", "focus": "encounter"}]), [("on[0].focus", "invalid-value")]),
        (topic(on=[{"resource": "Encounter", "where": "nothing=a"}]), [("on[0].where", "rule-not-evaluable")]),
        (topic(on=[{"resource": "Encounter", "fhirpath": "%previous.empty()"}]), [("on[0].fhirpath", "invalid-value")]),
        (topic(on=[{"resource": "Encounter", "fhirpath": "("}]), [("on[0].fhirpath", "rule-not-evaluable")]),
        (topic(on=[{"resource": "Encounter", "only_focus": 1}]), [("on[0].only_focus", "wrong-type")]),
        (topic(interactions={"admit": "merge"}), [("interactions.admit", "invalid-value")]),
        (topic(interactions=["admit"]), [("interactions", "wrong-type")]),
        (topic(filters=[{"parameter": "a", "paths": ["b"]}]), [("filters[0]", "invalid-value")]),
        (topic(filters=[{"parameter": "a", "paths": ["b"], "type": "text"}]), [("filters[0].type", "invalid-value")]),
        (topic(filters=[{"parameter": "a", "paths": ["b..c"], "type": "token"}]),
         [("filters[0].paths", "invalid-value")]),
        (topic(filters=[{"name": "a"}]),
         [("filters[0].name", "unknown-key"), ("filters[0].parameter", "missing-element")]),
        (topic(filters=[7]), [("filters[0]", "wrong-type"), ("filters[0].parameter", "missing-element")]),
        (topic(send={"Encounter": ["patient"]}), [("send.Encounter", "invalid-value")]),
        (topic(query="https://s/Encounter"), [("query", "invalid-value")]),
        (topic(query="Encounter?x={since}"), [("query", "invalid-value")]),
        (topic(spread="soon"), [("spread", "invalid-value")]),
        (topic(spread="2h"), [("spread", "invalid-value")]),
        (topic(source_rate="fast"), [("source_rate", "invalid-value")]),
        (topic(source_rate=-1), [("source_rate", "invalid-value")]),
        (topic(source_rate="-1"), [("source_rate", "invalid-value")]),
        (topic(source_rate=True), [("source_rate", "invalid-value")]),
        (topic(on=[]), [("on", "missing-element")]),
        (topic(on=None, relayed="a b"), [("relayed", "invalid-value"), ("on", "missing-element")]),
        (topic(on=None, relayed=1), [("relayed", "invalid-value"), ("on", "missing-element")]),
        (topic(on=None, relayed=False), [("on", "missing-element")]),
    ],
)  # fmt: skip
def test_each_mistake_names_its_key(values: Any, expected: list[tuple[str, str]]) -> None:
    assert problems(values) == expected


def test_unknown_key_is_answered_with_the_one_that_is_meant() -> None:
    with pytest.raises(SubscriptionRefused, match="'spread' meant"):
        topic_from(topic(sprea="1s"))
    with pytest.raises(SubscriptionRefused, match="known are url, version"):
        topic_from(topic(xyz="1s"))


def test_topic_that_others_tell_of_needs_no_trigger() -> None:
    """S-24."""
    topic = topic_from({"url": "http://t", "relayed": True})
    assert (topic.relayed, topic.way_in, topic.events, topic.resources) == (True, "", (), ())
    topic = topic_from({"url": "http://t", "relayed": "north-adt", "on": [{"event": "admit"}]})
    assert (topic.relayed, topic.way_in, len(topic.events)) == (True, "north-adt", 1)


@pytest.mark.parametrize("relayed", ["a/b", "", 7, ["north"]])
def test_way_in_of_others_is_a_name(relayed: object) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        topic_from({"url": "http://t", "relayed": relayed})
    assert refused.value.problem.expression == ("topic.relayed",)


@pytest.mark.parametrize("said", [True, "true"])
def test_a_topic_of_other_servers_needs_no_trigger(said: object) -> None:
    found = topic_from(topic(on=None, relayed=said, filters=["patient"]))
    assert found.relayed
    assert (found.events, found.resources, found.focus_types) == ((), (), frozenset())


def test_texts_stand_for_numbers_and_for_yes_and_no() -> None:
    """A reader that keeps places hands over texts."""
    found = topic_from(topic(source_rate="2.5", on=[{"resource": "Encounter", "only_focus": "true"}], spread=None))
    assert (found.source_rate, found.resources[0].only_focus, found.relayed) == (2.5, True, False)
    assert topic_from(topic(source_rate="0")).source_rate == 0.0

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscribed import subscription

from broker.core.fhir.header import Event, Format, Header, Release
from broker.core.subscription.content import Entry
from broker.core.subscription.matching import Subscribers
from broker.core.subscription.occurrence import Occurrence, Topics
from broker.core.subscription.query import NotEvaluable
from broker.core.subscription.subscription import Filter
from broker.core.subscription.topic import FilterBy, ResourceTrigger, Topic

HEADER = Header(release=Release.R4, format=Format.JSON, event=Event(code="admit"))
TOPIC = Topic(
    url="http://t",
    resources=(ResourceTrigger(resource="Encounter"), ResourceTrigger(resource="Patient")),
    filters=tuple(
        FilterBy(parameter=name, resource=type)
        for type, name in (
            *(("Encounter", name) for name in ("patient", "status", "class", "length", "date", "identifier")),
            ("Patient", "gender"),
        )
    ),
)


def encounter(**changed: Any) -> dict[str, Any]:
    known = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"system": "urn:c", "code": "AMB"},
        "subject": {"reference": "Patient/7"},
    }
    return known | changed


def occurrence(values: dict[str, Any]) -> Occurrence:
    entry = Entry(type=values["resourceType"], values=values)
    return Occurrence(topic=TOPIC, focus=entry, header=HEADER)


def filters(*texts: str) -> tuple[Filter, ...]:
    """`Encounter?status:not=a`, one by one."""
    found = []
    for text in texts:
        type, _, rest = text.partition("?")
        name, _, value = rest.partition("=")
        name, _, modifier = name.partition(":")
        found.append(Filter(resource_type=type, parameter=name, modifier=modifier, value=value))
    return tuple(found)


def subscribers(**texts: tuple[str, ...]) -> Subscribers:
    found = Subscribers()
    for id, each in texts.items():
        found.add(subscription(id=id, filters=filters(*each)), TOPIC)
    return found


MANY = {
    "all": (),
    "seven": ("Encounter?patient=Patient/7",),
    "bare": ("Encounter?patient=7",),
    "eight": ("Encounter?patient=Patient/8",),
    "either": ("Encounter?patient=Patient/8,Patient/7",),
    "twice": ("Encounter?status=finished,finished",),
    "both": ("Encounter?patient=Patient/7", "Encounter?status=finished"),
    "not": ("Encounter?status:not=finished",),
    "planned": ("Encounter?patient=Patient/7", "Encounter?status=planned"),
    "system": ("Encounter?class=urn:c|AMB",),
    "other": ("Encounter?class=urn:d|AMB",),
    "long": ("Encounter?length=gt5",),
    "women": ("Patient?gender=female",),
}


def test_subscriptions_are_found_by_their_filters() -> None:
    """S-58; a filter about another type of the topic does not keep anything back."""
    found = subscribers(**MANY).hearing(occurrence(encounter()))
    assert sorted(found) == sorted(["all", "seven", "bare", "either", "twice", "both", "system", "women"])


def test_other_type_of_the_topic_meets_its_own_filters() -> None:
    found = subscribers(**MANY).hearing(occurrence({"resourceType": "Patient", "gender": "male"}))
    assert "women" not in found
    assert "all" in found
    assert len(found) == len(MANY) - 1


def test_reference_inside_the_message_is_known_by_its_other_names() -> None:
    """What a message calls `urn:uuid:…` is Patient/7 to whoever filters."""
    found = subscribers(**MANY).hearing(
        occurrence(encounter(subject={"reference": "urn:uuid:p"})), lambda reference: ("urn:uuid:p", "Patient/7")
    )
    assert {"seven", "bare", "either"} <= set(found)


def test_who_wants_one_of_several_values_hears_once() -> None:
    """A resource with two identifiers, and a filter for either."""
    two = encounter(identifier=[{"value": "1"}, {"value": "2"}])
    found = subscribers(one=("Encounter?identifier=1,2",), two=("Encounter?identifier=3",))
    assert found.hearing(occurrence(two)) == ["one"]


def test_identifier_of_a_reference_is_found_by_its_modifier() -> None:
    who = encounter(subject={"identifier": {"system": "urn:person", "value": "1"}})
    found = subscribers(
        one=("Encounter?patient:identifier=urn:person|1",), two=("Encounter?patient:identifier=urn:person|2",)
    )
    assert found.hearing(occurrence(who)) == ["one"]


def test_occurrence_of_a_topic_without_subscribers_is_nobodys() -> None:
    elsewhere = msgspec.structs.replace(occurrence(encounter()), topic=msgspec.structs.replace(TOPIC, url="http://u"))
    assert subscribers(**MANY).hearing(elsewhere) == []


def test_what_was_removed_is_not_found_and_leaves_nothing_behind() -> None:
    found = subscribers(**MANY)
    assert "seven" in found
    for id in MANY:
        found.remove(id)
        found.remove(id)
        assert id not in found.hearing(occurrence(encounter()))
    assert len(found) == 0
    assert not found._of_topic


def test_change_of_filters_takes_the_place_of_what_was() -> None:
    found = subscribers(one=("Encounter?patient=Patient/7",))
    found.add(subscription(id="one", filters=filters("Encounter?patient=Patient/8")), TOPIC)
    assert found.hearing(occurrence(encounter())) == []
    assert len(found) == 1


def test_refused_filter_leaves_what_was_there() -> None:
    found = subscribers(one=("Encounter?patient=Patient/7",))
    with pytest.raises(NotEvaluable):
        found.add(subscription(id="one", filters=filters("Encounter?_in=Group/1")), TOPIC)
    assert found.hearing(occurrence(encounter())) == ["one"]


PATIENTS = st.sampled_from([f"Patient/{n}" for n in range(4)])
STATUSES = st.sampled_from(["planned", "finished", "arrived"])


@given(
    st.lists(
        st.lists(
            st.one_of(
                PATIENTS.map(lambda one: f"Encounter?patient={one}"),
                STATUSES.map(lambda one: f"Encounter?status={one}"),
                STATUSES.map(lambda one: f"Encounter?status:not={one}"),
                st.just("Encounter?class:missing=true"),
                st.just("Encounter?class=AMB,VR"),
            ),
            max_size=3,
        ),
        max_size=20,
    ),
    PATIENTS,
    STATUSES,
)
def test_index_finds_what_testing_each_alone_would_find(asked: list[list[str]], patient: str, status: str) -> None:
    """The law of the index."""
    values = encounter(subject={"reference": patient}, status=status)
    found = subscribers(**{str(n): tuple(each) for n, each in enumerate(asked)}).hearing(occurrence(values))
    alone = [str(n) for n, each in enumerate(asked) if subscribers(one=tuple(each)).hearing(occurrence(values))]
    assert sorted(found) == sorted(alone)
    assert len(found) == len(set(found))


# --- what it costs: a time would tell more of the machine, so that calls are counted, of Python and of C ---


def calls(work: Callable[[], object]) -> int:
    work()  # what is remembered is remembered
    count = 0

    def counted(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def cost(count: int, each: Callable[[int], tuple[str, ...]]) -> int:
    found = subscribers(**{str(n): each(n) for n in range(count)})
    what = occurrence(encounter(period={"start": "2026-11-21"}, length={"value": 3}))
    return calls(lambda: found.hearing(what))


@pytest.mark.parametrize(
    "each",
    [
        lambda n: (f"Encounter?patient=Patient/{n}",),
        lambda n: (f"Encounter?patient=Patient/{n},Patient/{n + 1}", "Encounter?status:not=planned"),
        lambda n: (f"Encounter?identifier=urn:v|{n}", "Encounter?length=gt5"),
    ],
    ids=["one value", "several values", "a rest"],
)
def test_who_filters_for_a_value_is_found_among_many_as_among_few(each: Callable[[int], tuple[str, ...]]) -> None:
    """Issue 6: one event against 10,000 subscriptions."""
    few, many = cost(10, each), cost(10_000, each)
    assert many <= 1.5 * few, f"{many} calls instead of {few}"


@pytest.mark.parametrize(
    "each",
    [
        lambda n: (),
        lambda n: ("Encounter?status:not=planned", "Encounter?length=gt5"),
        lambda n: ("Encounter?class=AMB", f"Encounter?date=ge20{n % 100:02}-01-01"),
    ],
    ids=["all hear", "nobody hears", "some hear"],
)
def test_others_cost_nothing_but_each_filter_once(each: Callable[[int], tuple[str, ...]]) -> None:
    few, many = cost(1_000, each), cost(10_000, each)
    assert many <= 1.5 * few, f"{many} calls instead of {few}"


def test_message_that_concerns_no_topic_costs_a_look_up_for_each_type() -> None:
    topics = Topics([TOPIC])
    body = orjson.dumps({"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Basic"}}] * 1_000})
    assert calls(lambda: topics.may_concern(str(HEADER.event), HEADER.format, body)) < 12
    assert not topics.may_concern(str(HEADER.event), HEADER.format, body)

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.subscription.compare import PREFIXES, Bounds, date_bounds, number_bounds
from broker.core.subscription.parameters import BY_TYPE, EVERY, Definition, Kind, definition_of
from broker.core.subscription.query import NotEvaluable, condition_of, conditions_of, parse
from broker.core.subscription.subscription import Filter
from broker.core.subscription.topic import FilterBy

ENCOUNTER: dict[str, Any] = {
    "resourceType": "Encounter",
    "id": "2",
    "meta": {"lastUpdated": "2026-11-21T12:00:00Z", "tag": [{"system": "urn:t", "code": "a"}], "profile": ["http://p"]},
    "identifier": [{"system": "urn:v", "value": "V1"}, {"value": "V2"}],
    "status": "finished",
    "class": {"system": "urn:c", "code": "AMB"},
    "type": [{"coding": [{"system": "urn:t", "code": "consult"}, {"code": "other"}]}],
    "subject": {"reference": "https://s.example/fhir/Patient/7/_history/2"},
    "participant": [{"individual": {"reference": "Practitioner/1"}}, {"individual": {"reference": "RelatedPerson/2"}}],
    "period": {"start": "2026-11-20T10:00:00+01:00"},
    "length": {"value": 90, "unit": "min", "system": "http://unitsofmeasure.org", "code": "min"},
    "location": [{"location": {"reference": "urn:uuid:l"}}],
}
PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "active": True,
    "name": [{"family": "Nordmann", "given": ["Kari", "Anne"]}],
    "birthDate": "1970-05",
    "address": {"city": "Tromsø"},
}


def holds(text: str, resource: dict[str, Any] = ENCOUNTER) -> bool:
    conditions = conditions_of(text, resource["resourceType"])
    return all(one.holds(resource, lambda name: ("Location/9",) if name == "urn:uuid:l" else ()) for one in conditions)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "_id=2",
        "status=finished",
        "status=planned,finished",
        "status=|finished",
        "status:not=planned",
        "Encounter?status=finished",
        "class=AMB",
        "class=urn:c|AMB",
        "class=urn:c|",
        "type=consult",
        "type=|other",
        "identifier=urn:v|V1",
        "identifier=V1&identifier=V2",
        "patient=Patient/7",
        "patient=7",
        "patient=https://s.example/fhir/Patient/7",
        "patient:Patient=7",
        "subject=Patient/7/_history/9",
        "practitioner=1",
        "participant=RelatedPerson/2",
        "location=Location/9",
        "location=urn:uuid:l",
        "date=ge2026-11-20",
        "date=gt2026-11-19",
        "length=90",
        "length=gt60",
        "length=gt60|http://unitsofmeasure.org|min",
        "length=le90||min",
        "_tag=urn:t|a",
        "_profile=http://p",
        "_lastUpdated=2026-11-21",
        "reason-code:missing=true",
        "status:missing=false",
    ],
)
def test_condition_holds(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "status=planned",
        "status=Finished",
        "status:not=finished,planned",
        "status=finished&class=VR",
        "class=urn:d|AMB",
        "class=|AMB",
        "patient=Patient/8",
        "patient=https://other.example/fhir/Patient/7",
        "patient=Practitioner/7",
        "practitioner=2",
        "date=eb2026-11-20",
        "date=lt2026-11-20",
        "length=lt60",
        "length=gt60|h",
        "_lastUpdated=2026-11-22",
        "reason-code:missing=false",
        "status:missing=true",
        "_profile:below=http://q",
        "encounter=1",
    ],
)
def test_condition_does_not_hold(text: str) -> None:
    if text == "encounter=1":
        assert not conditions_of("encounter=1", "Observation")[0].holds({"resourceType": "Observation"})
    else:
        assert not holds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("active=true", True),
        ("active=false", False),
        ("family=nord", True),
        ("family=mann", False),
        ("family:contains=MANN", True),
        ("family:exact=Nordmann", True),
        ("family:exact=nordmann", False),
        ("given=anne", True),
        ("address-city=tromsø", True),
        ("birthdate=1970", True),
        ("birthdate=1970-05-04", False),
        ("birthdate=lt1971", True),
        ("birthdate=sa1969", True),
        ("birthdate=ne1970", False),
    ],
)
def test_condition_of_a_person(text: str, expected: bool) -> None:
    assert holds(text, PATIENT) is expected


def test_uri_may_be_a_prefix() -> None:
    answers = {"resourceType": "QuestionnaireResponse", "questionnaire": "http://q.example/a/b"}
    assert holds("questionnaire:below=http://q.example/a", answers)
    assert not holds("questionnaire=http://q.example/a", answers)


def test_comma_and_bar_may_be_escaped() -> None:
    assert holds(r"identifier=a\,b", {"resourceType": "Encounter", "identifier": {"value": "a,b"}})


def test_codeable_reference_of_r5_is_looked_into() -> None:
    r5 = {
        "resourceType": "Appointment",
        "serviceType": [{"concept": {"coding": [{"code": "x"}]}, "reference": {"reference": "HealthcareService/1"}}],
    }
    assert holds("service-type=x", r5)
    allowed = FilterBy(parameter="service", resource="Appointment", paths=("serviceType",), type="reference")
    condition = condition_of(Filter(parameter="service", value="HealthcareService/1"), allowed, frozenset())
    assert condition.holds(r5)


def test_place_that_the_topic_names_is_looked_at() -> None:
    allowed = FilterBy(parameter="ward", paths=("location.location",), type="reference")
    condition = condition_of(Filter(parameter="ward", value="urn:uuid:l"), allowed, frozenset({"Encounter"}))
    assert condition.holds(ENCOUNTER)
    assert condition.keys == ("urn:uuid:l",)


def test_condition_is_not_about_other_types() -> None:
    (condition,) = conditions_of("status=planned", "Encounter")
    assert condition.holds({"resourceType": "Patient"})
    assert condition.definition("Patient") is None


@pytest.mark.parametrize(
    "values",
    [
        {"status": {"odd": 1}},
        {"status": None},
        {"subject": "Patient/7", "period": "soon", "length": "long"},
        {"subject": {"reference": {"reference": 7}}, "class": [[]], "identifier": [None]},
    ],
)
def test_odd_content_is_no_match_and_no_error(values: dict[str, Any]) -> None:
    resource = {"resourceType": "Encounter", **values}
    for text in ("status=finished", "patient=8", "date=2026", "length=5", "class=AMB", "identifier=1"):
        assert not holds(text, resource)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("_in=Group/1", "more than the message"),
        ("patient.name=x", "more than the message"),
        ("_has:Observation:patient:code=x", "more than the message"),
        ("nothing=1", "not known here"),
        ("status", "not `parameter=value`"),
        ("=x", "not `parameter=value`"),
        ("status:in=http://vs", "modifier"),
        ("date:exact=2026", "modifier"),
        ("date=soon", "no date"),
        ("date=ap2026", "no date"),
        ("length=x", "no quantity"),
        ("status:missing=maybe", "true or false"),
    ],
)
def test_what_no_message_can_answer_is_refused(text: str, why: str) -> None:
    """S-57."""
    with pytest.raises(NotEvaluable, match=why):
        conditions_of(text, "Encounter")


def test_comparator_stands_apart_in_r5() -> None:
    allowed = FilterBy(parameter="length", resource="Encounter")
    asked = Filter(parameter="length", value="60", comparator="gt")
    condition = condition_of(asked, allowed, frozenset())
    assert condition.holds(ENCOUNTER)
    assert condition.comparators == {"gt"}
    assert condition.keys is None
    for comparator, parameter in (("xx", "length"), ("gt", "status")):
        with pytest.raises(NotEvaluable):
            condition_of(
                Filter(parameter=parameter, value="60", comparator=comparator),
                FilterBy(parameter=parameter, resource="Encounter"),
                frozenset(),
            )


def test_parameter_without_a_type_is_about_each_type_that_has_it() -> None:
    types = frozenset({"Encounter", "Patient", "Observation"})
    found = condition_of(Filter(parameter="status", value="x"), FilterBy(parameter="status"), types)
    assert [type for type, _ in found.where] == ["Encounter", "Observation"]


def test_search_string_of_the_classic_model_is_read() -> None:
    found = parse("Encounter?status=finished&class=AMB")
    assert found.holds(ENCOUNTER)
    assert not found.holds(PATIENT)
    assert parse("Patient").holds(PATIENT)
    with pytest.raises(NotEvaluable, match="Type"):
        parse("status=finished")


# --- ranges ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026", 365 * 86400),
        ("2024", 366 * 86400),
        ("2026-02", 28 * 86400),
        ("2026-12", 31 * 86400),
        ("2026-11-21", 86400),
        ("2026-11-21T12:00", 60),
        ("2026-11-21T12:00:00", 1),
        ("2026-11-21T12:00:00+01:00", 1),
    ],
)
def test_date_is_as_long_as_it_is_exact(text: str, seconds: int) -> None:
    found = date_bounds(text)
    assert found is not None
    assert found.high - found.low == seconds


@pytest.mark.parametrize("text", ["", "soon", "2026-13", "2026-11-31", "9999", "20261121", 7, None, {}, "2026-1"])
def test_what_is_no_date_has_no_bounds(text: object) -> None:
    assert date_bounds(text) is None


def test_period_without_an_end_lasts() -> None:
    found, later = date_bounds({"start": "2026"}), date_bounds("3000-01-01")
    assert found is not None
    assert later is not None
    assert PREFIXES["gt"](found, later)
    ended = date_bounds({"end": "2026"})
    assert ended is not None
    assert PREFIXES["lt"](ended, later)


@pytest.mark.parametrize(("number", "low", "high"), [(100, 99.5, 100.5), ("1.0", 0.95, 1.05), (-2, -2.5, -1.5)])
def test_number_has_half_of_its_last_digit_to_either_side(number: object, low: float, high: float) -> None:
    assert number_bounds(number) == Bounds(low, high)


@pytest.mark.parametrize("number", ["", "x", "NaN", "Infinity", True, None, [], "1e999"])
def test_what_is_no_number_has_no_bounds(number: object) -> None:
    assert number_bounds(number) is None


RANGES = st.tuples(st.integers(-9, 9), st.integers(1, 5)).map(lambda pair: Bounds(pair[0], pair[0] + pair[1]))


@given(RANGES, RANGES)
def test_prefixes_agree_with_each_other(found: Bounds, asked: Bounds) -> None:
    def says(prefix: str) -> bool:
        return PREFIXES[prefix](found, asked)

    assert says("eq") is not says("ne")
    assert says("ge") is (says("gt") or says("eq"))
    assert says("le") is (says("lt") or says("eq"))
    assert says("sa") <= says("gt")
    assert says("eb") <= says("lt")
    assert not (says("sa") and says("eb"))
    assert set(PREFIXES) == {"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"}


# --- the table ---


def _elements(model: Any, path: tuple[str, ...]) -> bool:
    """Whether a path exists in a release, by the models of fhir.resources."""
    field = model.model_fields.get(path[0]) or next(
        (one for one in model.model_fields.values() if one.alias == path[0]), None
    )
    return field is not None


@pytest.mark.parametrize("type", sorted(BY_TYPE))
def test_every_place_in_the_table_exists_in_r4b_or_r5(type: str) -> None:
    models = [
        getattr(import_module(f"{package}.{type.lower()}"), type)
        for package in ("fhir.resources.R4B", "fhir.resources")
    ]
    for name, definition in {**BY_TYPE[type], **EVERY}.items():
        assert any(_elements(model, path) for model in models for path in definition.paths), (type, name)


def test_table_answers_by_type_and_then_for_all() -> None:
    assert definition_of("Encounter", "status") == Definition(Kind.TOKEN, (("status",),))
    assert definition_of("Encounter", "patient") == Definition(Kind.REFERENCE, (("subject",), ("patient",)), "Patient")
    assert definition_of("Basic", "_id") == EVERY["_id"]
    assert definition_of("Basic", "status") is None


def test_name_means_one_kind_whatever_the_type() -> None:
    kinds: dict[str, set[Kind]] = {}
    for table in (*BY_TYPE.values(), EVERY):
        for name, definition in table.items():
            kinds.setdefault(name, set()).add(definition.kind)
    assert all(len(each) == 1 for each in kinds.values())


def test_text_of_a_name_is_looked_for_in_all_its_parts() -> None:
    allowed = FilterBy(parameter="name", paths=("name",), type="string")
    for text, expected in (("Kari", True), ("nord", True), ("Ola", False)):
        condition = condition_of(Filter(parameter="name", value=text), allowed, frozenset({"Patient"}))
        assert condition.holds(PATIENT) is expected


def test_number_without_a_unit_is_not_of_the_unit_that_is_asked_for() -> None:
    allowed = FilterBy(parameter="size", paths=("size",), type="quantity")
    one = condition_of(Filter(parameter="size", value="5|min", comparator="eq"), allowed, frozenset({"Basic"}))
    assert not one.holds({"resourceType": "Basic", "size": 5})
    assert one.holds({"resourceType": "Basic", "size": {"value": 5, "unit": "min"}})

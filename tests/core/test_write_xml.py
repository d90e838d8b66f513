from __future__ import annotations

import xml.etree.ElementTree as ET
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import values_of_json, values_of_xml

from broker.core.fhir.header import Format, Release
from broker.core.fhir.splice import Raw
from broker.core.fhir.write import instant, media_type, narrative, shapes, write
from broker.core.fhir.xml_writer import escape, to_xml

NS = ' xmlns="http://hl7.org/fhir"'


def inside(document: bytes) -> str:
    """What stands in the root element."""
    text = document.decode().split("\n", 1)[1]
    return text[text.index(">") + 1 : text.rindex("<")]


def test_document_declares_utf_8_and_the_namespace_of_fhir() -> None:
    written = to_xml({"resourceType": "Bundle", "type": "message"})
    assert written == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Bundle xmlns="http://hl7.org/fhir"><type value="message"/></Bundle>'
    )


def test_resource_inside_an_element_gets_its_own_tag_without_a_second_namespace() -> None:
    patient = {"resourceType": "Patient", "id": "p"}
    written = to_xml({"resourceType": "Bundle", "entry": [{"resource": patient}], "contained": [patient]})
    assert inside(written) == (
        '<entry><resource><Patient><id value="p"/></Patient></resource></entry>'
        '<contained><Patient><id value="p"/></Patient></contained>'
    )


def test_id_of_an_element_and_url_of_an_extension_are_attributes() -> None:
    extension = {"id": "e", "url": "urn:x", "valueBoolean": True}
    written = to_xml({"resourceType": "Patient", "name": [{"id": "n", "extension": [extension], "url": "u"}]})
    assert inside(written) == (
        '<name id="n"><extension id="e" url="urn:x"><valueBoolean value="true"/></extension><url value="u"/></name>'
    )


def test_extensions_of_primitives_stand_in_their_element() -> None:
    absent = {"extension": [{"url": "urn:absent", "valueCode": "unknown"}]}
    resource = {
        "resourceType": "Patient",
        "_birthDate": absent,
        "given": ["a", None, "c", None],
        "_given": [None, absent, {"id": "x"}],
    }
    said = '<extension url="urn:absent"><valueCode value="unknown"/></extension>'
    assert inside(to_xml(resource)) == (
        f'<birthDate>{said}</birthDate><given value="a"/><given>{said}</given><given id="x" value="c"/>'
    )


def test_extension_of_a_single_primitive_stands_beside_its_value() -> None:
    written = to_xml({"resourceType": "Patient", "active": False, "_active": {"id": "a"}})
    assert inside(written) == '<active id="a" value="false"/>'


def test_numbers_are_written_as_they_are() -> None:
    written = to_xml({"resourceType": "X", "a": 7, "b": Decimal("1.10"), "c": 0.5})
    assert inside(written) == '<a value="7"/><b value="1.10"/><c value="0.5"/>'


def test_narrative_is_xhtml_as_it_is() -> None:
    written = to_xml({"resourceType": "X", "text": narrative("a < b & c", "d")})
    assert inside(written) == (
        '<text><status value="generated"/>'
        '<div xmlns="http://www.w3.org/1999/xhtml"><p>a &lt; b &amp; c</p><p>d</p></div></text>'
    )


def test_what_is_no_primitive_is_a_bug_that_shows() -> None:
    with pytest.raises(TypeError, match="bytes"):
        to_xml({"resourceType": "X", "a": b"bytes"})
    with pytest.raises(TypeError, match="set"):
        write({"resourceType": "X", "a": {1}}, Format.JSON)


def test_raw_resource_goes_in_as_it_is_in_both_formats() -> None:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": Raw(b"<f:Patient xmlns:f='http://hl7.org/fhir'/>")}]}
    assert b"<resource><f:Patient xmlns:f='http://hl7.org/fhir'/></resource>" in write(bundle, Format.XML)
    bundle = {"resourceType": "Bundle", "entry": [{"resource": Raw(b'{"resourceType" :  "Patient"}')}]}
    assert b'"resource":{"resourceType" :  "Patient"}' in write(bundle, Format.JSON)


def test_characters_that_xml_cannot_carry_are_replaced() -> None:
    assert escape("a\x00b\ud800c\x1fd\uffffe") == "a\ufffdb\ufffdc\ufffdd\ufffde"


def test_lone_surrogates_do_not_stop_the_json() -> None:
    resource = {"resourceType": "X", "a": ["\ud800", 1], "r": Raw(b"{}")}
    assert write(resource, Format.JSON) == b'{"resourceType":"X","a":["?",1],"r":{}}'


def test_instants_are_utc_to_the_millisecond() -> None:
    from datetime import datetime, timedelta, timezone

    at = datetime(2026, 3, 1, 1, 2, 3, 4567, tzinfo=timezone(timedelta(hours=2)))
    assert instant(at) == "2026-02-28T23:02:03.004Z"


def test_each_release_is_written_in_shapes_that_we_have() -> None:
    assert {release: shapes(release) for release in Release} == {
        Release.DSTU2: Release.R4,
        Release.STU3: Release.R4,
        Release.R4: Release.R4,
        Release.R4B: Release.R4,
        Release.R5: Release.R5,
        Release.R6: Release.R5,
    }


def test_media_type_names_format_and_release() -> None:
    assert media_type(Format.XML, Release.R4B) == "application/fhir+xml; fhirVersion=4.3"


# --- laws ---

names = st.sampled_from(["name", "code", "value", "part", "url", "a1"])
texts = st.text(st.characters(codec="utf-8"), min_size=1)
carried = texts.filter(lambda text: escape(text).count("\ufffd") == text.count("\ufffd"))
primitives = st.one_of(st.booleans(), st.integers(), carried)
elements = st.recursive(
    st.dictionaries(names, st.one_of(primitives, st.lists(primitives, min_size=1)), min_size=1),
    lambda inner: st.dictionaries(names, st.one_of(primitives, inner, st.lists(inner, min_size=1)), min_size=1),
    max_leaves=12,
)


@settings(deadline=None)
@given(elements)
def test_what_is_written_is_read_back(element: dict[str, Any]) -> None:
    resource = {"resourceType": "X", "id": "1", "part": element, "contained": [{"resourceType": "Y", **element}]}
    assert values_of_xml(to_xml(resource)) == values_of_json(resource)


@settings(deadline=None)
@given(st.text())
def test_any_text_leaves_the_document_well_formed(text: str) -> None:
    written = write({"resourceType": "X", "a": text, "b": {"id": text}, "text": narrative(text)}, Format.XML)
    element = ET.fromstring(written).find("{http://hl7.org/fhir}a")
    assert element is not None
    assert element.attrib["value"].replace("\ufffd", "") == "".join(one for one in text if escape(one) != "\ufffd")


@settings(deadline=None)
@given(st.text(st.characters()))
def test_any_text_leaves_the_json_valid(text: str) -> None:
    assert orjson.loads(write({"resourceType": "X", "a": text}, Format.JSON))["resourceType"] == "X"

"""The reader on XML: the same header as from JSON, and nothing of what XML can do beyond FHIR."""

from __future__ import annotations

import pytest

from broker.core.fhir.header import Destination, Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.outcome import Refusal

XML = media_type("application/fhir+xml")
FIRST = "Bundle.entry[0].resource"
EVENT = '<eventCoding><system value="s"/><code value="admit"/></eventCoding>'
SOURCE = '<source><endpoint value="urn:oid:1"/></source>'


def message(header: str = EVENT + SOURCE, bundle: str = '<type value="message"/>', more: str = "") -> bytes:
    return (
        f'<Bundle xmlns="http://hl7.org/fhir">{bundle}<entry><resource><MessageHeader>{header}'
        f"</MessageHeader></resource></entry>{more}</Bundle>"
    ).encode()


def read_xml(body: bytes) -> Header:
    return read(body, XML)


def refusal_of(body: bytes) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        read(body, XML)
    return refusal.value


def id_of(body: bytes) -> str:
    return refusal_of(body).problem.id


def test_everything_of_a_header_is_read() -> None:
    body = message(
        bundle="""<id value="b-1"/><meta><profile value="http://profile/b"/></meta><language value="nb"/>
            <identifier><system value="urn:x"/><value value="i-1"/></identifier><type value="message"/>
            <timestamp value="2026"/><link><relation value="self"/><url value="x"/></link>""",
        header="""<id value="mh-1"/><meta><profile value="http://profile/mh"/></meta>
            <text><status value="generated"/>
              <div xmlns="http://www.w3.org/1999/xhtml"><p id="x">a<b>c</b></p></div></text>
            <extension url="http://hl7.org/fhir/StructureDefinition/messageheader-response-request">
              <valueCode value="never"/></extension>
            <extension url="http://other"><extension url="nested"><valueString value="x"/></extension></extension>
            <eventCoding><system value="s"/><code value="admit"/><display value="x"/></eventCoding>
            <destination><name value="d"/><endpoint value="urn:oid:2"/>
              <receiver><reference value="Organization/o"/><identifier><value value="own"/></identifier></receiver>
            </destination>
            <destination><extension url="only"><valueString value="x"/></extension></destination>
            <destination><endpoint>
              <extension url="absent"><valueCode value="unknown"/></extension></endpoint></destination>
            <sender><reference value="urn:uuid:o"/></sender>
            <source><name value="Ward"/><contact><system value="phone"/><value value="1"/></contact>
              <endpoint value="urn:oid:1"/></source>
            <reason><coding><code value="x"/></coding></reason>
            <response><identifier value="req-1"/><code value="ok"/></response>
            <focus><reference value="Patient/1"/></focus><focus><display value="none"/></focus>""",
        more="""<entry/><entry><resource/></entry><entry><fullUrl value="urn:uuid:o"/><resource><Organization>
            <id value="o"/><text><div xmlns="http://www.w3.org/1999/xhtml">x</div></text>
            <identifier><use value="official"/><system value="s"/><value value="v"/></identifier>
            <identifier><value value="w"/></identifier><identifier><value/></identifier>
            <name value="x"/><address><line value="x"/></address></Organization></resource></entry>
            <entry><resource><Patient/></resource></entry>
            <entry><fullUrl/><resource><Organization><id value="o"/></Organization></resource></entry>
            <signature><data value="x"/></signature>""",
    )
    assert read_xml(body) == Header(
        release=Release.R4,
        format=Format.XML,
        event=Event("s", "admit"),
        bundle_id="b-1",
        bundle_identifier=Identifier("urn:x", "i-1"),
        message_id="mh-1",
        timestamp="2026",
        source="urn:oid:1",
        source_name="Ward",
        destinations=(
            Destination(endpoint="urn:oid:2", receivers=("own", "s|v", "w")),
            Destination(),
            Destination(),
        ),
        response=ResponseLink(identifier=Identifier("", "req-1"), code="ok"),
        senders=("s|v", "w"),
        profiles=("http://profile/b", "http://profile/mh"),
        focus=("Patient/1",),
        response_request="never",
    )


def test_r5_endpoint_is_found_in_an_entry_or_contained() -> None:
    header = """<contained/><contained><Endpoint><id value="c"/><identifier><value value="i"/></identifier>
          <address value="http://contained"/></Endpoint></contained>
        <contained><Endpoint><identifier><value value="i"/></identifier></Endpoint></contained>
        <eventCanonical value="http://e"/>
        <destination><endpointReference><reference value="Endpoint/e"/></endpointReference></destination>
        <source><endpointReference><reference value="#c"/></endpointReference></source>
        <response><identifier><system value="s"/><value value="v"/></identifier><code value="ok"/></response>"""
    entry = '<entry><resource><Endpoint><id value="e"/><address value="http://entry"/></Endpoint></resource></entry>'
    read_ = read_xml(message(header, more=entry))
    assert (read_.release, read_.source) == (Release.R5, "http://contained")
    assert read_.destinations == (Destination(endpoint="http://entry"),)
    assert read_.response == ResponseLink(identifier=Identifier("s", "v"), code="ok")


def test_prefixes_are_as_good_as_a_default_namespace() -> None:
    plain = message().decode()
    prefixed = plain.replace("</", "</f:").replace("<", "<f:").replace("<f:/f:", "</f:").replace("xmlns=", "xmlns:f=")
    assert prefixed.startswith('<f:Bundle xmlns:f="http://hl7.org/fhir">')
    assert read_xml(prefixed.encode()) == read_xml(message())


@pytest.mark.parametrize(
    "before",
    ['<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-8"?>\n<!-- c --><?pi x?>', "\ufeff", " \n"],
)
def test_what_may_stand_before_the_root_may(before: str) -> None:
    assert read_xml(before.encode() + message() + b"<!-- end -->").source == "urn:oid:1"


def test_event_uri_with_only_an_extension_is_an_event_without_a_code() -> None:
    header = f'<eventUri><extension url="x"/></eventUri>{SOURCE}'
    assert read_xml(message(header)).event == Event("", "")


def test_other_namespaces_are_nothing_of_ours_in_other_entries() -> None:
    more = '<entry><resource><Basic><x xmlns="urn:x"><y/></x></Basic></resource></entry>'
    assert read_xml(message(more=more)).source == "urn:oid:1"


@pytest.mark.parametrize(
    "body",
    [
        message().replace(b"http://hl7.org/fhir", b"http://hl7.org/fhir1"),
        b"<Bundle/>",
        message(header=EVENT + '<source xmlns="urn:x"><endpoint value="a"/></source>'),
        message(bundle='<type xmlns="urn:x" value="message"/>'),
        message(more='<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/passwd"/>'),
        message(
            more='<entry><resource><xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="x"/></resource></entry>'
        ),
    ],
)
def test_foreign_namespace_is_refused_where_it_matters(body: bytes) -> None:
    """X-43."""
    assert id_of(body) == "wrong-namespace"


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE Bundle>",
        '<!DOCTYPE Bundle SYSTEM "http://x/y.dtd">',
        '<!DOCTYPE Bundle [<!ENTITY a "b"><!ENTITY c "&a;&a;">]>',
        '<!DOCTYPE Bundle [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_doctype_is_refused(doctype: str) -> None:
    """X-43."""
    assert id_of(doctype.encode() + message()) == "doctype"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused_as_such(encoding: str) -> None:
    assert id_of(message().decode().encode(encoding)) == "not-utf-8"


def test_other_encodings_are_refused() -> None:
    assert id_of(b'<?xml version="1.0" encoding="ISO-8859-1"?>' + message()) == "not-utf-8"
    assert id_of(message().replace(b"admit", b"\xe6")) == "not-utf-8"


@pytest.mark.parametrize(
    "body",
    [
        b"<Bundle", message()[:-1], message() + b"<x/>", message() + b"x", message().replace(b"</entry>", b""),
        b"x", b"<>", message(header="&undefined;"), message(header="<id value='&#xD800;'/>"),
        message(header="<id value='a' value='b'/>"),
        message(header="\x00"), message().replace(b"admit", b"<"), message(header="<p:x/>"),
    ],
)  # fmt: skip
def test_broken_xml_is_refused(body: bytes) -> None:
    problem = refusal_of(body).problem
    assert (problem.id, problem.code) == ("malformed-xml", "structure")


def test_json_sent_as_xml_is_told_so() -> None:
    assert "looks like JSON" in str(refusal_of(b' {"resourceType": "Bundle"}'))


def test_place_of_a_mistake_is_named() -> None:
    assert "mismatched tag at line 2, column 3" in str(refusal_of(b'<Bundle xmlns="http://hl7.org/fhir">\n</x>'))


def test_depth_is_bounded() -> None:
    assert read_xml(message(more="<x>" * 127 + "</x>" * 127)).source == "urn:oid:1"
    assert id_of(message(more="<x>" * 128 + "</x>" * 128)) == "too-deep"
    assert id_of(b"<x>" * 100_000) == "wrong-namespace"
    assert id_of(message(more="<x>" * 100_000)) == "too-deep"


def test_header_of_more_than_a_mebibyte_is_refused() -> None:
    assert id_of(message(header="<focus/>" * 150_000)) == "header-too-large"
    assert read_xml(message(more="<entry><resource/></entry>" * 50_000)).source == "urn:oid:1"


@pytest.mark.parametrize(
    ("body", "expression"),
    [
        (message(EVENT + SOURCE * 2), f"{FIRST}.source"),
        (message(EVENT + SOURCE + '<id value="a"/><id value="b"/>'), f"{FIRST}.id"),
        (message(EVENT + "<source><endpoint value='a'/><endpoint value='b'/></source>"), f"{FIRST}.source.endpoint"),
        (message(bundle='<type value="message"/><type value="batch"/>'), "Bundle.type"),
        (message(bundle='<type value="message"/><identifier/><identifier/>'), "Bundle.identifier"),
    ],
)
def test_single_element_written_twice_is_refused(body: bytes, expression: str) -> None:
    """X-43."""
    problem = refusal_of(body).problem
    assert (problem.id, problem.expression) == ("duplicate-key", (expression,))


@pytest.mark.parametrize(
    ("body", "expression"),
    [
        (message(EVENT + '<source value="x"/>'), f"{FIRST}.source"),
        (message(SOURCE + '<eventCoding value="x"/>'), f"{FIRST}.eventCoding"),
        (message(EVENT + SOURCE + '<destination value="x"/>'), f"{FIRST}.destination[0]"),
        (message(bundle='<type value="message"/><identifier value="x"/>'), "Bundle.identifier"),
    ],
)
def test_value_where_an_element_must_be_is_refused(body: bytes, expression: str) -> None:
    problem = refusal_of(body).problem
    assert (problem.id, problem.expression) == ("wrong-type", (expression,))


@pytest.mark.parametrize(
    ("body", "id", "expression"),
    [
        (b'<Patient xmlns="http://hl7.org/fhir"/>', "not-a-bundle", "Bundle"),
        (message(bundle='<type value="batch"/>'), "not-a-message", "Bundle.type"),
        (message(bundle=""), "missing-element", "Bundle.type"),
        (message(bundle="<type/>"), "missing-element", "Bundle.type"),
        (message(bundle="", more='<type value="batch"/>'), "not-a-message", "Bundle.type"),
        (
            b'<Bundle xmlns="http://hl7.org/fhir"><type value="message"/></Bundle>',
            "missing-element",
            "Bundle.entry",
        ),
        (message().replace(b"MessageHeader", b"Patient"), "no-message-header", FIRST),
        (message().replace(b"resource", b"resoure"), "no-message-header", FIRST),
        (message(EVENT), "missing-element", f"{FIRST}.source"),
        (message(SOURCE), "missing-element", f"{FIRST}.event[x]"),
        (
            b'<Bundle xmlns="http://hl7.org/fhir"><type value="message"/><entry><resource/></entry></Bundle>',
            "no-message-header",
            FIRST,
        ),
    ],
)
def test_what_is_no_message_is_refused(body: bytes, id: str, expression: str) -> None:
    problem = refusal_of(body).problem
    assert (problem.id, problem.expression) == (id, (expression,))

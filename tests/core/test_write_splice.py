from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from broker.core.fhir.header import Format
from broker.core.fhir.splice import Raw, spliceable

CORPUS = Path(__file__).parent.parent / "corpus" / "messages"
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*.json")), ids=lambda path: path.name)
def test_real_json_stands_as_it_came(path: Path) -> None:
    body = path.read_bytes()
    assert spliceable(body, Format.JSON) == Raw(body.removeprefix(BOM))


@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*.xml")), ids=lambda path: path.name)
def test_real_xml_stands_from_its_root_on(path: Path) -> None:
    body = path.read_bytes()
    raw = spliceable(body, Format.XML)
    assert raw is not None
    assert raw.contents.startswith(b"<Bundle")
    assert body.endswith(raw.contents)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"Bundle"',
        b"{}",
        b'{"resourceType": 1}',
        b'[{"resourceType":"Bundle"}]',
        b'{"resourceType":"Bundle"} x',
        b'{"resourceType":"Bundle"},{"resourceType":"Bundle"}',
        b'{"resourceType":"Bundle"}],[{"resourceType":"Bundle"}',
        b'{"resourceType":"Bundle","x":NaN}',
        b'{"resourceType":"Bundle","x":1e999}',
        b'{"resourceType":"Bundle","x":"\\ud800"}',
        b'{"resourceType":"Bundle","x":"\xff"}',
        b'{"resourceType":"Bundle","x":"\x01"}',
        b'{"resourceType":"Bundle", /* why */ "x":1}',
        b'{"resourceType":"Bundle","x":' + b"[" * 990 + b"]" * 990 + b"}",
        '{"resourceType":"Bundle"}'.encode("utf-16"),
        BOM + BOM + b'{"resourceType":"Bundle"}',
    ],
)
def test_json_that_would_spoil_a_page_is_not_spliced(body: bytes) -> None:
    assert spliceable(body, Format.JSON) is None


def test_bom_is_cut_and_white_space_is_left() -> None:
    body = b'\r\n {"resourceType":\r\n\t"Bundle"}\r\n'
    assert spliceable(BOM + body, Format.JSON) == Raw(body)


ROOT = b'<Bundle xmlns="http://hl7.org/fhir">'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Bundle/>",
        b"<Bundle><type value='message'/></Bundle>",
        b'<Bundle xmlns="http://example.org"/>',
        b'<f:Bundle xmlns="http://hl7.org/fhir"/>',
        ROOT + b"<x:y/></Bundle>",
        ROOT + b"<id value='&nbsp;'/></Bundle>",
        ROOT + b"</Bundle><!-- -- -->",
        ROOT + b"</Bundle>" + ROOT + b"</Bundle>",
        ROOT + b"</Bundle></resource>",
        b"<!DOCTYPE Bundle>" + ROOT + b"</Bundle>",
        b'<!DOCTYPE Bundle [<!ENTITY e "x">]>' + ROOT + b'<id value="&e;"/></Bundle>',
        b'<?xml version="1.0" encoding="ISO-8859-1"?>' + ROOT + b'<id value="\xf8"/></Bundle>',
        b'<?xml version="1.0" encoding="ISO-8859-1"?>' + ROOT + '<id value="ø"/></Bundle>'.encode(),
        '<?xml version="1.0" encoding="UTF-16"?><Bundle xmlns="http://hl7.org/fhir"/>'.encode("utf-16"),
        ROOT + b'<id value="\x01"/></Bundle>',
    ],
)
def test_xml_that_would_spoil_a_page_is_not_spliced(body: bytes) -> None:
    assert spliceable(body, Format.XML) is None


@pytest.mark.parametrize(
    "start",
    [
        b"",
        BOM,
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n',
        BOM + b'<?xml version="1.0"?>\n<!-- <Bundle> -->\n<?xml-stylesheet href="x"?>\n',
        b'<?xml version="1.0" encoding="ISO-8859-1"?>',  # ASCII is ASCII
    ],
)
def test_what_stands_before_the_root_is_cut(start: bytes) -> None:
    document = ROOT + b'<id value="x"/></Bundle>\n'
    assert spliceable(start + document, Format.XML) == Raw(document)


def test_prefixes_of_an_original_stay_its_own() -> None:
    body = b'<f:Bundle xmlns:f="http://hl7.org/fhir" xmlns="urn:other"><f:id value="x"/><y/></f:Bundle>'
    raw = spliceable(body, Format.XML)
    assert raw is not None
    page = ET.fromstring(b'<p xmlns="http://hl7.org/fhir"><resource>' + raw.contents + b"</resource></p>")
    assert [child.tag for child in page[0][0]] == ["{http://hl7.org/fhir}id", "{urn:other}y"]

"""Media types as they are really written (M-51)."""

from __future__ import annotations

import pytest

from broker.core.fhir.header import Format, Release
from broker.core.fhir.media import acceptable, media_text, media_type
from broker.core.outcome import Refusal, Unsupported

JSON, XML = Format.JSON, Format.XML


@pytest.mark.parametrize(
    ("text", "format", "release", "bare"),
    [
        ("application/fhir+json", JSON, None, "application/fhir+json"),
        ("Application/FHIR+JSON ; Charset=UTF-8", JSON, None, "application/fhir+json"),
        ('application/fhir+xml;charset="utf-8"', XML, None, "application/fhir+xml"),
        ("application/json+fhir", JSON, None, "application/json+fhir"),
        ("application/xml+fhir", XML, None, "application/xml+fhir"),
        ("application/json", JSON, None, "application/json"),
        ("text/json;charset=utf8", JSON, None, "text/json"),
        ("application/xml", XML, None, "application/xml"),
        ("text/xml", XML, None, "text/xml"),
        ("json", JSON, None, "json"),
        ("xml", XML, None, "xml"),
        ("application/fhir+json; fhirVersion=4.0", JSON, Release.R4, "application/fhir+json"),
        ("application/fhir+json;FHIRVERSION=4.0.1", JSON, Release.R4, "application/fhir+json"),
        ('application/fhir+json; fhirVersion="4.3"', JSON, Release.R4B, "application/fhir+json"),
        ('application/fhir+json; x=";"; fhirVersion="5.\\0.0"', JSON, Release.R5, "application/fhir+json"),
        ("application/fhir+json; fhirVersion=6.0.0-ballot4", JSON, Release.R6, "application/fhir+json"),
        ("application/fhir+json; fhirVersion=3.0.2", JSON, Release.STU3, "application/fhir+json"),
        ("application/fhir+json; fhirVersion=1.0", JSON, Release.DSTU2, "application/fhir+json"),
        ("application/fhir+json; fhirVersion=5.0; fhirVersion=4.0", JSON, Release.R5, "application/fhir+json"),
    ],
)
def test_media_type_is_read(text: str, format: Format, release: Release | None, bare: str) -> None:
    media = media_type(text)
    assert (media.format, media.release, media.bare) == (format, release, bare)


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("", "unsupported-media-type"),
        ("text/plain", "unsupported-media-type"),
        ("application/fhir+turtle", "unsupported-media-type"),
        ("multipart/form-data; boundary=x", "unsupported-media-type"),
        ("x" * 5000, "unsupported-media-type"),
        ("application/fhir+json; charset=iso-8859-1", "unsupported-charset"),
        ("application/fhir+json; charset=utf-16", "unsupported-charset"),
        ("application/fhir+json; fhirVersion=R4", "unsupported-fhir-version"),
        ("application/fhir+json; fhirVersion=4.2", "unsupported-fhir-version"),
        ("application/fhir+json; fhirVersion=", "unsupported-fhir-version"),
        ("application/fhir+json; fhirVersion=4", "unsupported-fhir-version"),
    ],
)
def test_unknown_media_type_is_refused(text: str, id: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        media_type(text)
    assert refusal.value.problem.id == id
    assert len(refusal.value.problem.text) < 250


@pytest.mark.parametrize(
    ("accept", "format_param", "expected"),
    [
        (None, None, (JSON, None)),
        ("", "", (JSON, None)),
        ("*/*", None, (JSON, None)),
        ("*", None, (JSON, None)),
        ("application/*", None, (JSON, None)),
        ("application/fhir+xml", None, (XML, None)),
        ("application/fhir+xml, */*", None, (XML, None)),
        ("application/fhir+xml;q=0.5, */*", None, (JSON, None)),
        ("application/fhir+xml;q=0.5, application/fhir+json;q=0.4", None, (XML, None)),
        ("application/fhir+xml;q=0.3, application/fhir+json;q=0.4", None, (JSON, None)),
        ("application/fhir+xml, application/fhir+json", None, (XML, None)),
        ("application/fhir+json;q=0, */*;q=0.1", None, (XML, None)),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", None, (XML, None)),
        ("text/html, */*;q=0.1", None, (JSON, None)),
        ("application/fhir+json; fhirVersion=5.0", None, (JSON, Release.R5)),
        ('text/x;a="b,c", application/fhir+xml;fhirVersion="4.3.0";q=1', None, (XML, Release.R4B)),
        ("application/fhir+json; fhirVersion=9.9, application/fhir+xml;q=0.1", None, (XML, None)),
        ("application/fhir+json;q=high, application/fhir+xml;q=0.1", None, (XML, None)),
        ("application/fhir+json;q=7", None, (JSON, None)),
        ("text/html", "json", (JSON, None)),
        ("application/fhir+json", "xml", (XML, None)),
        (None, "application/fhir+xml; fhirVersion=4.0", (XML, Release.R4)),
        (None, "application/fhir xml", (XML, None)),
        (None, "text/xml", (XML, None)),
    ],
)
def test_answer_is_written_as_the_caller_asks(
    accept: str | None, format_param: str | None, expected: tuple[Format, Release | None]
) -> None:
    assert acceptable(accept, format_param) == expected


@pytest.mark.parametrize(
    ("accept", "format_param"),
    [
        ("text/html", None),
        ("application/fhir+json;q=0", None),
        ("application/fhir+json;q=0, application/fhir+xml;q=0, */*", None),
        ("*/*;q=0", None),
        (",", None),
        ("application/fhir+json; fhirVersion=9.9", None),
        ("application/fhir+json", "html"),
        (None, "application/fhir+json; fhirVersion=9.9"),
    ],
)
def test_impossible_wish_is_refused(accept: str | None, format_param: str | None) -> None:
    with pytest.raises(Refusal) as refusal:
        acceptable(accept, format_param)
    assert refusal.value.problem.id == "not-acceptable"


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("release", [None, *Release])
def test_canonical_media_type_is_read_back(format: Format, release: Release | None) -> None:
    media = media_type(media_text(format, release))
    assert (media.format, media.release) == (format, release)


def test_canonical_media_type_is_spelt_as_fhir_spells_it() -> None:
    assert media_text(JSON) == "application/fhir+json"
    assert media_text(XML, Release.R4B) == "application/fhir+xml; fhirVersion=4.3"

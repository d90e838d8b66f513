"""Reads the header of a message out of its bytes without building the rest (spec: messaging section 1)."""

from __future__ import annotations

from broker.core.fhir import complaints
from broker.core.fhir.header import Format, Header, Release
from broker.core.fhir.json_reader import read_json
from broker.core.fhir.media import MediaType
from broker.core.fhir.xml_reader import read_xml


def read(body: bytes, media: MediaType, *, url_release: Release | None = None) -> Header:
    """The header of a message; raises a Refusal that says what is wrong with it, and nothing else.

    The release is the one of the media type, else of the URL, else what the spelling shows (M-2).
    """
    if not body or body.isspace():
        raise complaints.empty()
    reader = read_json if media.format is Format.JSON else read_xml
    return reader(body, media.release or url_release)

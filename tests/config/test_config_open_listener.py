"""A listener beyond loopback is no secret: what this release cannot check is said."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from broker.config import load

CONFIG = """\
broker: {{endpoint: "urn:oid:2.999.1", base_url: "https://edge.example/fhir"}}
channels:
  http:
    listen: 0.0.0.0:8443
    tls: {{cert: cert.pem, key: key.pem{more}}}
parties:
  north: {{endpoints: ["urn:oid:2.999.2"]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=edge.example",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path


def _warnings(folder: Path, more: str) -> list[str]:
    file = folder / "broker.yaml"
    file.write_text(CONFIG.format(more=more))
    return [warning.text for warning in load(file).warnings]


def test_listener_beyond_loopback_is_warned_of_while_parties_cannot_prove_who_they_are(folder: Path) -> None:
    assert any("cannot prove who they are" in text for text in _warnings(folder, ""))


def test_a_certificate_that_is_asked_for_is_a_guard(folder: Path) -> None:
    assert _warnings(folder, ", client_ca: cert.pem, client: required") == []

"""How a listener proves itself and whom it lets in: the `tls` block that every channel's settings may have, as values.

Only values: the channel that listens makes its own `ssl` context of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class ClientCertificate(StrEnum):
    """Whether a caller is asked for a certificate of its own."""

    OFF = "off"
    OPTIONAL = "optional"  # checked where one is shown
    REQUIRED = "required"


def described(text: str) -> dict[str, str]:
    """The metadata of a setting: what `fhir-broker schema` and the settings page say about it."""
    return {"description": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificate and key of a listener, and what it asks of its callers; paths are absolute."""

    cert: Path = field(metadata=described("The certificate chain, PEM, leaf first."))
    key: Path = field(metadata=described("The private key of the certificate, PEM."))
    client_ca: Path | None = field(
        default=None, metadata=described("The authorities whose client certificates are believed, PEM.")
    )
    client: ClientCertificate = field(
        default=ClientCertificate.OFF,
        metadata=described("Whether callers are asked for a certificate: off, optional, required."),
    )

"""`fhir-broker init`: a configuration to begin with, and the folders beside it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TextIO

OK = 0
FAILED = 1

FILE = "broker.yaml"
FOLDER = "directory"

_STARTER = """\
# What this broker does. `fhir-broker check --config broker.yaml` says what is wrong in here, and where;
# docs/settings.md tells of every setting. What is left out has its default.

broker:
  # Who this broker is, to other brokers and in the bounces it writes. 2.999 is the arc for examples: put your own here.
  endpoint: urn:oid:2.999.1
  # How others reach its FHIR base. `POST {base_url}/$process-message` is the way in.
  base_url: http://127.0.0.1:8080/fhir
  # The event of a message, in front of it: the type of its CloudEvent.
  event_prefix: org.example

# Where accepted messages are kept. A relative path starts at the folder of this file.
store:
  url: sqlite:DATA/broker.db
  retention: {body: 90d, mailbox: 90d, identity: 90d, trace: 400d}

# For operators only: /admin/v1, /metrics, /health. Keep it on loopback.
admin:
  listen: 127.0.0.1:8079

# The protocols it speaks; what is absent is off. Beyond loopback a listener needs `tls`, and `parties` below.
channels:
  http:
    listen: 127.0.0.1:8080
    # tls: {cert: tls/cert.pem, key: tls/key.pem}

# Who may send, and as whom. While there is none, everybody who reaches the listener may: so it stays on loopback.
# parties:
#   north: {endpoints: ["urn:oid:2.999.2.1001"]}
#   national: {relays_for: ["urn:oid:2.999.2.*"], broker: true}

# Who lives where: endpoint (a name) to address (how to reach it). The scheme of an address picks the channel.
directory:
  # Files with more of the same: YAML with `endpoints:`, or FHIR Bundles of Endpoint and Organization.
  # sources: [directory/*.yaml, directory/*.json]
  endpoints:
    # Kept here, until somebody fetches it: GET {base_url}/Bundle?message.destination-uri=urn:oid:2.999.2.1
    urn:oid:2.999.2.1: "mailbox:"
    # urn:oid:2.999.2.2: https://ehr.example/fhir/$process-message
    # urn:oid:2.999.2.3: {first: ["https://a.example/fhir", "https://b.example/fhir"]}   # the next when one is down
    # urn:oid:2.999.3.*: https://national.example/fhir/$process-message   # all that begin alike: the next hop
    # "*": https://gateway.example/fhir/$process-message                  # whatever else; without it: refused

# Rules for some messages; the first that matches decides.
# routes:
#   - name: sick notes
#     match: {event: "*sick-leave*"}
#     sync: {wait: 30s}
#     retry: {give_up: 72h}

# For every message, where its rule says nothing else. These are the defaults already.
defaults:
  sync: {wait: 10s, longest: 60s}      # how long a caller is kept waiting for the answer
  retry: {first: 1s, factor: 2, max: 10m, jitter: 0.2, give_up: 24h}

log: {level: info, format: auto}
"""


def starter(data: str = "data") -> str:
    """The text of a first configuration; `data` is the folder of the store, seen from it."""
    return _STARTER.replace("DATA", data)


def init(folder: str | Path = ".", *, out: TextIO | None = None) -> int:
    """Writes a commented configuration that runs on loopback; never overwrites one. Returns the exit code."""
    out = out or sys.stdout
    home = Path(folder)
    file = home / FILE
    try:
        if file.exists():
            raise FileExistsError(errno.EEXIST, "", str(file))
        (home / FOLDER).mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(starter())
    except FileExistsError as error:
        out.write(f"{error.filename} is there already; nothing was written\n")
        return FAILED
    except OSError as error:
        out.write(f"{error.filename} cannot be written: {error.strerror}\n")
        return FAILED
    out.write(
        f"wrote {file}\n"
        f"made  {home / FOLDER}/ for files that say who lives where\n\n"
        "next:\n"
        f"  fhir-broker check --config {file}\n"
        f"  fhir-broker run --config {file}\n"
        "  fhir-broker send MESSAGE.json\n"
    )
    return OK

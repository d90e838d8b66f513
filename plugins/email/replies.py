"""SMTP's numbers and our refusals: what we answer at DATA, and what a server's answer means for an attempt. Pure.

| answer | end of the attempt |
|---|---|
| 2xx after the last dot | delivered |
| 421, or a status 4.3.x or 4.4.5 | deferred, the smarthost's trouble |
| any other 4xx | deferred |
| 5xx to the greeting, EHLO, STARTTLS or AUTH; 530, 534, 535, 538 | deferred, the smarthost's trouble: to be mended |
| any other 5xx | refused |
| anything else | deferred, the smarthost's trouble |
"""

from __future__ import annotations

import re

from broker.channel import Deferred, Refused
from broker.core.outcome import Problem, Refusal, Who

LONGEST_REPLY = 400  # of RFC 5321's 512 octets
LONGEST_NOTE = 200
ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_LOGIN = frozenset({530, 534, 535, 538})

# A-43, by our own id where the code says too little, else by the code of the issue.
_BY_ID = {
    "loop": "554 5.4.6",
    "too-many-hops": "554 5.4.6",
    "no-usable-address": "550 5.4.4",
    "digest-mismatch": "554 5.6.0",  # the mail as it is now will not be right the next time either
    "refused-by-rule": "550 5.7.1",
}
_BY_CODE = {
    "not-found": "550 5.1.1",
    "business-rule": "550 5.7.1",
    "too-long": "552 5.3.4",
    "not-supported": "554 5.6.1",
    "forbidden": "550 5.7.1",
    "login": "530 5.7.0",
    "structure": "550 5.6.0",
    "required": "550 5.6.0",
    "value": "550 5.6.0",
    "invariant": "550 5.6.0",
    "invalid": "550 5.6.0",
    "duplicate": "554 5.5.0",
    "timeout": "554 5.4.7",
    "throttled": "451 4.4.5",
    "no-store": "452 4.3.1",
    "transient": "451 4.3.0",
    "exception": "451 4.3.0",
}


def reply_of(refusal: Refusal) -> str:
    """The line that says no, or later."""
    problem = refusal.problem
    numbers = _BY_ID.get(problem.id) or _BY_CODE.get(problem.code, "554 5.5.0")
    return f"{numbers} {shown(problem.text, LONGEST_REPLY)} [{problem.id}]"


def shown(text: str, longest: int = LONGEST_NOTE) -> str:
    """A text in one line of plain ASCII, and not too long."""
    line = " ".join("".join(c if c.isascii() and c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


# --- what a server says ----------------------------------------------------------------------------------------------


_CODES = (
    ("5.1", "not-found"),
    ("5.2.3", "too-long"),
    ("5.3.4", "too-long"),
    ("5.4.4", "not-found"),
    ("5.4.6", "business-rule"),
    ("5.4.7", "timeout"),
    ("5.6.1", "not-supported"),
    ("5.6", "structure"),
    ("5.7", "forbidden"),
)


def problem_of(status: str, text: str, *, who: Who = Who.RECEIVER, id: str = "refused-by-receiver") -> Problem:
    """Why a mail was not delivered, by its enhanced status (RFC 3463; A-43)."""
    if status.startswith("4."):  # a server that has given up says so with the last trouble it had
        return Problem(code="timeout", id=id, text=text, who=who)
    code = next((code for begin, code in _CODES if status == begin or status.startswith(f"{begin}.")), "processing")
    return Problem(code=code, id=id, text=text, who=who)


def status_of(code: int, text: str, *, recipient: bool = False) -> str:
    """The enhanced status of an answer; where it has none, what its number says."""
    if found := ENHANCED.match(text):
        return found[1]
    return {552: "5.3.4", 550: "5.1.1" if recipient else "5.0.0", 551: "5.1.6", 553: "5.1.3", 421: "4.3.2"}.get(
        code, f"{code // 100}.0.0"
    )


def not_delivered(code: int, text: str, *, what: str, left: bool, recipient: bool = False) -> Deferred | Refused:
    """The end of an attempt whose command or mail got this answer; `what` names it."""
    status = status_of(code, text, recipient=recipient)
    note = f"{what}: {code} {shown(text)}".rstrip()
    if code // 100 == 5 and code not in _LOGIN:
        said = f"The mail was refused ({note})."
        return Refused(note=note, problem=problem_of(status, said), status=code)
    of_peer = code // 100 != 4 or code == 421 or status == "4.4.5" or status.startswith("4.3.")
    return Deferred(note=note, of_peer=of_peer, status=code, left=left)

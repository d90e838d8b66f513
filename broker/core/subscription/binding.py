"""What is said on a subscriber's socket: `bind` of R4, `bind-with-token` of topics, and what we answer (S-42, S-43)."""

from __future__ import annotations

import re
from enum import Enum

import msgspec

LONGEST = 4096  # characters of a token; nothing else that a client says is longer

_BIND = re.compile(r"bind[ \t]+([A-Za-z0-9\-.]{1,64})")
# The diagram of the backport has a colon where its text has none.
_WITH_TOKEN = re.compile(r"bind-with-token:?[ \t]+([\x21-\x7e]{1,4096})")


class How(Enum):
    ID = "id"  # R4 classic: the logical id of a Subscription; answered with `bound` and `ping`
    TOKEN = "token"  # topics: answered with a handshake for each subscription of the token


class Bind(msgspec.Struct, frozen=True):
    how: How
    value: str

    def __repr__(self) -> str:
        return f"Bind({self.how}, {self.value if self.how is How.ID else '(hidden)'!r})"


def read_bind(text: str) -> Bind | None:
    """What a client asks for; None for anything else it may say."""
    if len(text) > LONGEST + 32:
        return None
    text = text.strip()
    for how, form in ((How.TOKEN, _WITH_TOKEN), (How.ID, _BIND)):
        match = form.fullmatch(text)
        if match is not None:
            return Bind(how, match[1])
    return None


def bound(id: str) -> str:
    return f"bound {id}"


def ping(id: str) -> str:
    return f"ping {id}"

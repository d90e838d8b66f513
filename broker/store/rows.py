"""Values to columns and columns to values, for the embedded store."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from broker.core import message as messages
from broker.core.delivery import AnswerState, Outcome, State, Step
from broker.core.message import Fate
from broker.core.policy import Policy
from broker.store import Delivery, Stored

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SOURCES, ORDINARY = 1_024, 256  # digests remembered, of sources of so many characters: parties send again and again

encode_steps = msgspec.json.Encoder().encode
decode_steps = msgspec.json.Decoder(tuple[Step, ...]).decode
encode_outcome = msgspec.json.Encoder().encode
decode_outcome = msgspec.json.Decoder(Outcome).decode
encode_policy = msgspec.json.Encoder().encode
decode_policy = msgspec.json.Decoder(Policy).decode

DELIVERY = (
    "position, number, destination, key, address, lane, state, due, expiry, accepted, policy, rule, fixed,"
    " attempts, has_left, answer, answer_by, answered_by, ended, steps, outcome, priority"
)
STORED = "position, accepted, about, fate, answers, answers_number, body IS NOT NULL OR file IS NOT NULL"


# sqlite3 looks in three places for an adapter of whatever is no plain int, float or str, before it takes it as it is.
# These stand in the first of them and leave every value what it is: a message has twenty such values.
for _kind in (bool, State, AnswerState, Fate):
    sqlite3.register_adapter(_kind, int)
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(type(None), {None: None}.get)


def micros(at: datetime) -> int:
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def id_digest(text: str) -> bytes:
    """16 bytes that stand for an id of a sender's; its `urn:uuid:` prefix does not count (M-31)."""
    return hashlib.blake2b(text.removeprefix("urn:uuid:").encode("utf-8", "surrogatepass"), digest_size=16).digest()


def source_digest(text: str) -> bytes:
    return _remembered_digest(text) if len(text) <= ORDINARY else _source_digest(text)


def _source_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


_remembered_digest = lru_cache(SOURCES)(_source_digest)


def delivery_of(row: Sequence[Any], policy_of: Callable[[int], Policy]) -> Delivery:
    return Delivery(
        position=row[0],
        number=row[1],
        destination=row[2],
        key=row[3],
        address=row[4],
        lane=row[5],
        state=State(row[6]),
        due=moment(row[7]),
        expiry=moment(row[8]),
        accepted=moment(row[9]),
        policy=policy_of(row[10]),
        rule=row[11],
        fixed=bool(row[12]),
        attempts=row[13],
        left=bool(row[14]),
        answer=AnswerState(row[15]),
        answer_by=None if row[16] is None else moment(row[16]),
        answered_by=row[17],
        ended=None if row[18] is None else moment(row[18]),
        steps=() if row[19] is None else decode_steps(row[19]),
        outcome=None if row[20] is None else decode_outcome(row[20]),
        priority=row[21],
    )


def stored_of(row: Sequence[Any]) -> Stored:
    message = messages.decode(row[2])
    if message.fate != row[3]:  # the transaction knew better: the request had been answered already
        message = msgspec.structs.replace(message, fate=Fate(row[3]))
    return Stored(
        position=row[0],
        accepted=moment(row[1]),
        message=message,
        answers=None if row[4] is None else (row[4], row[5] or 0),
        body_kept=bool(row[6]),
    )


class Policies:
    """The policies that deliveries were accepted under, by number; read once each on a connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._by_id: dict[int, Policy] = {}

    def __call__(self, number: int) -> Policy:
        policy = self._by_id.get(number)
        if policy is None:
            row = self._db.execute("SELECT value FROM policy WHERE id = ?", (number,)).fetchone()
            policy = self._by_id[number] = decode_policy(row[0])
        return policy

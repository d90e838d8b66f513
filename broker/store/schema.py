"""The tables of the embedded store, and how an older file is brought up to date."""

from __future__ import annotations

import sqlite3

VERSION = 6

# Inside, ids are integers and times are microseconds since 1970 (UTC). `message` is only ever appended to and read by
# position. `claim` is the one place where ids that senders made are looked up: `tie` 0 is the claim of an identity,
# unique by the primary key itself; any other tie is the position of a message that may be quoted by that id.
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE message (
    position INTEGER PRIMARY KEY,   -- given by the writer, never twice: retention notes the highest in meta
    accepted INTEGER NOT NULL,
    fate     INTEGER NOT NULL,
    answers  INTEGER,            -- position of the request that it answers,
    answers_number INTEGER,      -- and the number of the delivery
    event    TEXT NOT NULL,      -- system|code
    source   TEXT NOT NULL,      -- comparison key
    quoted   TEXT,               -- response.identifier
    media    TEXT NOT NULL,
    format   TEXT NOT NULL,
    release  TEXT NOT NULL,
    digest   BLOB NOT NULL,
    about    BLOB NOT NULL,      -- core.message.Message
    claims   BLOB,               -- store.claims: the ids by which it is found
    negative TEXT,               -- response.code, of a response that is no good receipt
    file     TEXT,               -- where the body is, if not here
    body     BLOB
);
CREATE INDEX message_answers ON message (answers) WHERE answers IS NOT NULL;
CREATE INDEX message_negative ON message (answers, answers_number, negative) WHERE negative IS NOT NULL;

CREATE TABLE claim (
    id       BLOB NOT NULL,      -- 16-byte digest of an id
    source   BLOB NOT NULL,      -- 8-byte digest of the source that made it
    tie      INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (id, source, tie)
) WITHOUT ROWID;

CREATE TABLE policy (id INTEGER PRIMARY KEY, value BLOB NOT NULL UNIQUE);

CREATE TABLE delivery (
    position INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    destination TEXT NOT NULL,
    key      TEXT NOT NULL,
    address  TEXT NOT NULL,
    lane     TEXT NOT NULL,
    state    INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    expiry   INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    policy   INTEGER NOT NULL,
    rule     TEXT NOT NULL,
    fixed    INTEGER NOT NULL,
    mailbox  INTEGER,            -- that it was put in
    attempts INTEGER NOT NULL DEFAULT 0,
    has_left INTEGER NOT NULL DEFAULT 0,
    answer   INTEGER NOT NULL,
    answer_by INTEGER,
    answered_by INTEGER,
    ended    INTEGER,
    steps    BLOB,
    outcome  BLOB,               -- core.delivery.Outcome, once it has ended
    stream   BLOB,               -- core.stream: 16 bytes, where a rule asks for order; what waits behind another
    turn     INTEGER,            -- of its stream is due in the far future, whoever has the lowest turn goes first
    priority INTEGER NOT NULL DEFAULT 0,
    source   BLOB,               -- 8-byte digest of the message's source; NULL in rows of older releases
    PRIMARY KEY (position, number)
) WITHOUT ROWID;
-- Some end with the column of their own condition: without it, SQLite looks the row of each entry up for that.
CREATE INDEX delivery_due ON delivery (lane, key, priority, due, state) WHERE state = 0;
CREATE INDEX delivery_expiry ON delivery (expiry) WHERE state = 0;
CREATE INDEX delivery_answer ON delivery (answer_by, answer) WHERE answer = 1;
CREATE INDEX delivery_dead ON delivery (position, state) WHERE state = 2;
CREATE INDEX delivery_stream ON delivery (stream, turn) WHERE stream IS NOT NULL AND state = 0;

CREATE TABLE stream_hold (       -- dead letters that nothing of their stream goes past
    stream   BLOB NOT NULL,
    position INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    PRIMARY KEY (stream, position, number)
) WITHOUT ROWID;

CREATE TABLE mailbox (
    id       INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    name     TEXT NOT NULL,
    removed  INTEGER NOT NULL DEFAULT 0   -- the highest position that retention has taken away
);
CREATE TABLE mail (
    mailbox  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    read_at  INTEGER,
    reader   TEXT,
    unread_by INTEGER,           -- emptied once it is read, or reported
    PRIMARY KEY (mailbox, position)
) WITHOUT ROWID;
CREATE INDEX mail_unread ON mail (unread_by) WHERE unread_by IS NOT NULL;

CREATE TABLE held (
    position INTEGER PRIMARY KEY    -- what retention had to keep, to be looked at again
);

CREATE TABLE hold (
    lane     TEXT PRIMARY KEY,   -- to which an operator lets nothing go
    reason   TEXT NOT NULL,
    begins   INTEGER NOT NULL,
    ends     INTEGER,
    ordered  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE refusal (           -- what was refused at the door, counted
    day      INTEGER NOT NULL,   -- since 1970, UTC
    source   TEXT NOT NULL,      -- comparison key
    party    TEXT NOT NULL,
    error    TEXT NOT NULL,
    code     TEXT NOT NULL,
    destination TEXT NOT NULL,   -- of what was wrongly addressed
    count    INTEGER NOT NULL,
    PRIMARY KEY (day, source, party, error, code, destination)
) WITHOUT ROWID;

CREATE TABLE note (
    position INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    what     TEXT NOT NULL,
    who      TEXT NOT NULL,
    text     TEXT NOT NULL
);
CREATE INDEX note_position ON note (position);
"""

# New in version 6. What a client wrote, and its life, stand together; the numbers stand apart, and what was heard in
# the order of the events: one that ten thousand hear of then changes a hundred pages, not one for each of them. From an
# event that a subscription heard of, `previous` leads to the one before, and every so often there is a mark to start
# from (`telling_sqlite`).
TELLING = """
CREATE TABLE subscription (
    key      INTEGER PRIMARY KEY AUTOINCREMENT,   -- never given twice
    id       TEXT NOT NULL UNIQUE,
    owner    TEXT NOT NULL,
    version  INTEGER NOT NULL,
    changed  INTEGER NOT NULL,
    written  BLOB NOT NULL,      -- core.subscription.Subscription, secrets and all
    life     BLOB NOT NULL,      -- core.subscription.life.Life
    notice   BLOB                -- store.telling.Notice
);
CREATE TABLE counter (
    key      INTEGER PRIMARY KEY,
    counted  INTEGER NOT NULL DEFAULT 0,   -- the highest number given,
    event    INTEGER NOT NULL DEFAULT 0,   -- and to which event
    sent     INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE event (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    topic    TEXT NOT NULL,
    places   TEXT NOT NULL,      -- JSON
    interaction TEXT,
    relayed  INTEGER NOT NULL
);
CREATE INDEX event_position ON event (position);
CREATE TABLE heard (
    event    INTEGER NOT NULL,
    key      INTEGER NOT NULL,   -- of the subscription
    number   INTEGER NOT NULL,
    previous INTEGER NOT NULL,   -- the event that it heard before
    PRIMARY KEY (event, key)
) WITHOUT ROWID;
CREATE TABLE mark (
    key      INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    event    INTEGER NOT NULL,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;

CREATE TABLE notice (
    position INTEGER PRIMARY KEY    -- of a message that tells a subscriber something: for who counts all but these
);
"""
TABLES += TELLING

# From version 2: what waits is found by lane and destination, and in the order of priority; lanes can be held.
LANES = """
ALTER TABLE delivery ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
DROP INDEX delivery_due;
CREATE INDEX delivery_due ON delivery (lane, key, priority, due) WHERE state = 0;
CREATE TABLE hold (
    lane TEXT PRIMARY KEY, reason TEXT NOT NULL, begins INTEGER NOT NULL, ends INTEGER, ordered INTEGER NOT NULL
) WITHOUT ROWID;
"""

STREAMS = """
ALTER TABLE delivery ADD COLUMN stream BLOB;
ALTER TABLE delivery ADD COLUMN turn INTEGER;
CREATE INDEX delivery_stream ON delivery (stream, turn) WHERE stream IS NOT NULL AND state = 0;
CREATE TABLE stream_hold (
    stream BLOB NOT NULL, position INTEGER NOT NULL, number INTEGER NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (stream, position, number)
) WITHOUT ROWID;
"""

# From version 3: what is counted is counted by the index alone.
COUNTED = """
DROP INDEX delivery_due;
DROP INDEX delivery_answer;
DROP INDEX delivery_dead;
CREATE INDEX delivery_due ON delivery (lane, key, priority, due, state) WHERE state = 0;
CREATE INDEX delivery_answer ON delivery (answer_by, answer) WHERE answer = 1;
CREATE INDEX delivery_dead ON delivery (position, state) WHERE state = 2;
"""

# From version 4: the receipt ledger. Of deliveries that are there, the source is found by their message.
LEDGER = """
ALTER TABLE message ADD COLUMN negative TEXT;
ALTER TABLE delivery ADD COLUMN source BLOB;
UPDATE message SET negative = json_extract(about, '$.header.response.code')
    WHERE answers IS NOT NULL AND answers_number IS NOT NULL
    AND json_extract(about, '$.header.response.code') IN ('transient-error', 'fatal-error');
CREATE INDEX message_negative ON message (answers, answers_number, negative) WHERE negative IS NOT NULL;
CREATE TABLE refusal (
    day INTEGER NOT NULL, source TEXT NOT NULL, party TEXT NOT NULL, error TEXT NOT NULL, code TEXT NOT NULL,
    destination TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (day, source, party, error, code, destination)
) WITHOUT ROWID;
"""

UPGRADES = {  # from this version to the next; statements end with `;` at the end of a line
    1: "CREATE TABLE held (position INTEGER PRIMARY KEY);\n",
    2: STREAMS + LANES,
    3: COUNTED,
    4: LEDGER,
    5: TELLING,
}


def prepare(db: sqlite3.Connection, key: bytes) -> None:
    """Creates the tables, or brings those of an older release up to date; refuses a file of a newer one."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise ValueError(
            f"the store is of version {version}, this release reads up to {VERSION}: it was written by a newer one"
        )
    for step in range(version, VERSION) if version else ():
        db.execute("BEGIN IMMEDIATE")
        _run(db, UPGRADES[step])
        db.execute(f"PRAGMA user_version = {step + 1}")
        db.execute("COMMIT")
    if version == 0:
        db.execute("BEGIN IMMEDIATE")
        _run(db, TABLES)
        db.execute("INSERT INTO meta VALUES ('key', ?)", (key,))
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")


def _run(db: sqlite3.Connection, statements: str) -> None:
    """One by one: `executescript` would commit first."""
    for statement in statements.split(";\n"):
        if statement.strip():
            db.execute(statement)

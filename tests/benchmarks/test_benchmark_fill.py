"""A long past made of few messages: the broker's own rows, each with a position and claims of its own."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker.store.claims import unpack

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# Some for a mailbox and some for a receiver; the second time on what has been filled meanwhile.
KEEP_SOME = """
import subprocess, sys
from pathlib import Path
from contestants import broker, free_port, program
from messages import MAILBOX, RECEIVER
from parts import KEEP
port = free_port()
with broker(Path(sys.argv[1]), to=port) as ours:
    for to, more in ((MAILBOX, []), (RECEIVER, ["--receive", str(port), "--settled", ours.settled])):
        command = program("driver", "--url", f"http://127.0.0.1:{ours.port}{KEEP}", "--to", to, "--n", 10, "--warm", 0)
        subprocess.run(command + ["--connections", "2", *more], check=True)
"""


def keep_some(folder: Path) -> list[int]:
    """How many were answered of each kind."""
    command = [sys.executable, "-c", KEEP_SOME, str(folder)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True, timeout=100)
    return [json.loads(line)["answered"] for line in done.stdout.splitlines()]


def fill(database: Path, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "fill.py"), "--db", str(database), "--n", str(count)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_what_is_multiplied_is_whole_and_the_broker_goes_on_with_it(tmp_path: Path) -> None:
    database = tmp_path / "broker.db"
    assert keep_some(tmp_path) == [10, 10]
    done = fill(database, 107)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == 107
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*), count(DISTINCT position) FROM delivery WHERE state <> 0").fetchone() == (
            107,
            107,
        )
        assert db.execute("SELECT count(*) FROM message WHERE length(body) = 4096").fetchone() == (107,)
        assert db.execute("SELECT count(*) FROM delivery WHERE answer = 1").fetchone() == (0,), (
            "a past waits for nothing"
        )
        mail, boxed = db.execute(
            "SELECT (SELECT count(*) FROM mail), (SELECT count(*) FROM delivery WHERE mailbox IS NOT NULL)"
        ).fetchone()
        assert mail == boxed == 57
        beside = {
            row for at, packed in db.execute("SELECT position, claims FROM message") for row in unpack(packed, at)
        }
        assert set(db.execute("SELECT id, source, tie, position FROM claim")) == beside
        assert len({(id, source) for id, source, tie, _ in beside if tie == 0}) >= 107, (
            "each has an identity of its own"
        )
        last = db.execute("SELECT max(position) FROM message").fetchone()[0]
    assert keep_some(tmp_path) == [10, 10]
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT count(*) FROM message WHERE position > ?", (last,)).fetchone() == (20,)


def test_a_store_in_which_something_waits_is_not_multiplied(tmp_path: Path) -> None:
    database = tmp_path / "broker.db"
    keep_some(tmp_path)
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("UPDATE delivery SET state = 0 WHERE position = (SELECT max(position) FROM delivery)")
        held = fill(database, 100)
        assert held.returncode != 0
        assert "stop the broker that has it open" in held.stderr
    done = fill(database, 100)
    assert done.returncode != 0
    assert "1 deliveries that wait" in done.stderr


@pytest.mark.parametrize("made", [False, True])
def test_what_is_no_store_of_this_broker_is_refused(tmp_path: Path, made: bool) -> None:
    database = tmp_path / "other.db"
    if made:
        with closing(sqlite3.connect(database)) as db:
            db.execute("PRAGMA user_version = 999")
    done = fill(database, 100)
    assert done.returncode != 0
    assert ("store of version 999" if made else "is no store") in done.stderr

"""`fhir-broker report`: tables, JSON, and CSV that a spreadsheet opens without running it."""

from __future__ import annotations

import csv
import io

import pytest
from command_desk import Commands
from operator_desk import EHR, NOW, SOURCE

from broker.commands.report import cell
from broker.store.ledger import RefusedAs

PERIOD = ("--from", "2026-11-01", "--to", "2026-11-30")


async def test_report_shows_the_sums_and_what_has_no_receipt(desk: Commands) -> None:
    open_one = await desk.desk.accept(1)
    dead = await desk.desk.dead(2)
    told = await desk("report", *PERIOD)
    assert told.code == 0, told
    assert f"{SOURCE}  2" in told.out
    assert "1 refused-by-receiver" in told.out
    for position in (open_one, dead):
        (line,) = [line for line in told.out.splitlines() if line.startswith(desk.desk.id(position))]
        assert EHR in line
    assert "no receipt yet" in told.out
    assert "not delivered: refused-by-receiver" in told.out


async def test_nothing_to_tell_is_said(desk: Commands) -> None:
    told = await desk("report", *PERIOD)
    assert (told.code, told.out.splitlines()[-1]) == (0, "no receipt is missing")
    assert "nothing was sent in this period" in told.out


async def test_csv_has_a_row_for_each_message(desk: Commands) -> None:
    position = await desk.desk.accept(1)
    told = await desk("report", *PERIOD, "--csv", "--party", "north")
    (row,) = csv.DictReader(io.StringIO(told.out))
    assert (row["id"], row["source"], row["what"], row["party"]) == (desk.desk.id(position), SOURCE, "open", "north")


async def test_csv_of_the_sums_has_a_row_for_each_source(desk: Commands) -> None:
    await desk.desk.dead(1)
    await desk.desk.store.refused({
        RefusedAs(day=NOW.date(), source="urn:t", party="", error="loop", code="business-rule", destination=""): 3
    })  # fmt: skip
    told = await desk("report", *PERIOD, "--csv", "--totals")
    first, second = csv.DictReader(io.StringIO(told.out))
    assert (first["source"], first["undelivered: refused-by-receiver"], first["refused: loop"]) == (SOURCE, "1", "0")
    assert (second["source"], second["refused: loop"]) == ("urn:t", "3")


async def test_json_has_all_of_it(desk: Commands) -> None:
    await desk.desk.accept(1)
    told = await desk("report", *PERIOD, "--json")
    assert told.json["total"]["open"] == 1
    assert (len(told.json["messages"]), told.json["more"]) == (1, False)


async def test_two_forms_at_once_are_wrong_usage(desk: Commands) -> None:
    assert (await desk("report", "--csv", "--json")).code == 2


async def test_wrong_period_is_refused(desk: Commands) -> None:
    told = await desk("report", "--from", "soon")
    assert (told.code, "must be a day or a time" in told.err) == (3, True)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_stranger_wrote_is_no_formula(text: str) -> None:
    assert not str(cell(text)).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_cells_keep_numbers_and_say_yes_and_no() -> None:
    assert [cell(value) for value in (-3, True, False, None, "urn:x")] == [-3, "yes", "no", "", "urn:x"]

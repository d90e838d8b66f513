"""Networks of brokers, taken apart by a seed, keep what they promise (design: promises)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mutations import MUTATIONS

SIMULATE = Path(__file__).parent / "simulate.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the simulation sets the pace of the flow's timers for all that is in its process."""
    return subprocess.run(
        [sys.executable, SIMULATE, *arguments], capture_output=True, text=True, timeout=110, check=False
    )


def test_whatever_goes_wrong_the_promises_hold_once_all_is_healed() -> None:
    """As many seeds as fit; `make simulate` runs all twenty thousand."""
    ran = run("--seeds", "20000", "--seconds", "20")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_seed_comes_to_the_same_each_time() -> None:
    first, second = run("--seed", "12"), run("--seed", "12")
    assert first.stdout == second.stdout
    assert first.stdout.count("\n") > 20


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_broken_rule_is_found_within_500_seeds(mutation: str) -> None:
    # a report on a report takes one that is given up itself: in the first thousands of seeds there is one
    first = "1500" if mutation == "report-on-reports" else "0"
    ran = run("--first", first, "--seeds", "500", "--mutation", mutation)
    assert (ran.returncode, ", 1 wrong" in ran.stdout) == (1, True), ran.stdout + ran.stderr

"""Three real brokers in namespaces of their own: a minute of cut cables, killed processes and a full disk (soak.py)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")
TROUBLES = {"cable cut", "cable silent", "storm", "kill -9", "SIGSTOP", "full disk"}


@pytest.mark.slow
@pytest.mark.timeout(330)
def test_everything_that_three_brokers_acknowledged_in_a_bad_minute_is_accounted_for() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    [told] = re.findall(r"the troubles are over: .*", done.stdout)
    assert {kind for kind in TROUBLES if f"'{kind}'" in told} == TROUBLES
    ends = {end: int(count) for count, end in re.findall(r"^ +(\d+) (\w+: .+)$", done.stdout, re.MULTILINE)}
    assert sum(ends.values()) > 300, "so few messages prove nothing"
    assert {"letter: delivered", "mail: delivered", "astray: bounced", "question: answered later"} <= ends.keys()

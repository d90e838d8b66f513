"""Every broken example gives exactly the lines that stand beside it, and every good one none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from config_desk import CHANNELS

from broker.commands.check import check
from broker.commands.init import starter
from broker.config import load
from broker.config.installed import Installed

CONFIG = Path(__file__).parents[2] / "config"
BROKEN = sorted((CONFIG / "broken").glob("*.yaml"))
GOOD = [CONFIG / "broker.yaml", *sorted((CONFIG / "examples").glob("*.yaml"))]
SECRET = "hunter2"
ALL = {**Installed(), **CHANNELS}  # whatever is installed, and ours in the place of http


@pytest.mark.parametrize("file", BROKEN, ids=lambda file: file.stem)
def test_a_broken_example_gives_the_lines_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    out = io.StringIO()
    assert check(file.name, channels=ALL, env={"PASSWORD": SECRET}, out=out) == 2
    assert out.getvalue() == file.with_suffix(".expect").read_text(encoding="utf-8")
    assert SECRET not in out.getvalue()


def test_there_are_broken_examples_and_none_has_lost_its_lines() -> None:
    assert len(BROKEN) >= 20
    assert {file.stem for file in (CONFIG / "broken").glob("*.expect")} == {file.stem for file in BROKEN}


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
@pytest.mark.parametrize("channels", [ALL, Installed()], ids=["ours", "installed"])
def test_a_good_example_has_no_mistake_and_no_warning(file: Path, channels: dict[str, object]) -> None:
    assert load(file, env={}, channels=channels).warnings == ()  # type: ignore[arg-type]


def test_the_first_configuration_is_the_starter() -> None:
    assert (CONFIG / "broker.yaml").read_text(encoding="utf-8") == starter("../data")

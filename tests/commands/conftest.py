from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))  # the operator's desk is theirs too

from command_desk import Commands, command_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Commands]:
    async with command_desk(tmp_path) as opened:
        yield opened

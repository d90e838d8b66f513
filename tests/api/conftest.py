from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from operator_desk import Desk, operator_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with operator_desk(tmp_path) as opened:
        yield opened

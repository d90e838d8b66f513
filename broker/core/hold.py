"""A hold: an operator lets nothing go to a peer, from a time on, until a time or for good. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec

LONGEST_REASON = 500  # characters


class Phase(Enum):
    PLANNED = "planned"
    HELD = "held"
    OVER = "over"


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    lane: str
    reason: str = ""
    begins: datetime
    ends: datetime | None = None  # None: until somebody resumes it
    ordered: datetime  # when the operator said so

    def phase(self, now: datetime) -> Phase:
        if self.ends is not None and self.ends <= now:
            return Phase.OVER
        return Phase.HELD if self.begins <= now else Phase.PLANNED

    def changes_at(self, now: datetime) -> datetime | None:
        """When it begins or ends by itself; None where it does neither any more."""
        return self.begins if self.begins > now else self.ends

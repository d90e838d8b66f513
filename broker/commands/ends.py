"""How a command ends: the exit codes of the contract, and an end with something to say."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2  # wrong usage, or a configuration with mistakes
    REFUSED = 3  # by the broker
    UNREACHABLE = 4


class Ended(Exception):
    """The command ends here, with a code and a text for stderr."""

    def __init__(self, code: Exit, text: str = "") -> None:
        super().__init__(text)
        self.code, self.text = code, text

"""Our own message ids: UUIDs that carry the position and cannot be guessed.

An id is the position, sealed with a key of the store, in the shape of a version 8 UUID. So it needs no index and no
column, sorts by position, and one that we did not give out is recognised as such before the store is asked.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_VERSION = 0x8
_VARIANT = 0b10
MOST_REMEMBERED = 4096  # 1 MiB


class MessageIds:
    """Turns positions into ids and back, for one store."""

    __slots__ = ("_sealing", "of")

    def __init__(self, key: bytes) -> None:
        self._sealing = hashlib.blake2b(digest_size=10, key=key)
        self.of = lru_cache(maxsize=MOST_REMEMBERED)(self._of)  # asked again soon: acceptance, attempt, their log lines

    def _of(self, position: int) -> str:
        """The id of the message at this position."""
        head = position.to_bytes(6, "big")
        sealing = self._sealing.copy()
        sealing.update(head)
        seal = bytearray(sealing.digest())
        seal[0] = _VERSION << 4 | seal[0] & 0x0F
        seal[2] = _VARIANT << 6 | seal[2] & 0x3F
        text = (head + seal).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def position(self, message_id: str) -> int | None:
        """The position in an id of ours; None for anything else."""
        text = message_id.removeprefix("urn:uuid:").lower()
        try:
            position = int(text.replace("-", "")[:12], 16)
        except ValueError:
            return None
        return position if self.of(position) == text else None

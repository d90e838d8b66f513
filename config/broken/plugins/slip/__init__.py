"""Its second file imports what is not there."""

from .parts import CHANNEL

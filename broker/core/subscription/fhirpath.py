"""FHIRPath over a resource of a message; what the message does not hold is refused when the rule is read (S-57).

The evaluator is fhirpathpy (MIT). It is loaded with the first rule that needs it. It keeps constants in its module: one
thread at a time may evaluate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from broker.core.subscription.elements import Values
from broker.core.subscription.query import NotEvaluable

Evaluate = Callable[[Values, dict[str, Any]], Any]

LONGEST = 4096  # characters; a rule that is longer is a program
CLOCK = frozenset({"now", "today", "timeOfDay"})  # would make a decision depend on when it is made
NOT_OURS = frozenset({"trace", "resolve", "memberOf", "conformsTo", "subsumes", "subsumedBy", "htmlChecks"})
VARIABLES = frozenset({"current", "previous", "resource", "rootResource", "context", "ucum"})

_TEXTS = re.compile(r"'(?:[^'\\]|\\.)*'|//[^\n]*|/\*.*?\*/", re.DOTALL)
_FUNCTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*\(")
_WORDS = frozenset({"and", "or", "xor", "implies", "in", "contains", "div", "mod", "is", "as"})
_VARIABLE = re.compile(r"%(?:`([^`]*)`|'([^']*)'|([A-Za-z0-9_\-]+))")


class Path(msgspec.Struct, frozen=True):
    """An expression that is true of a resource or not; `%previous` is always empty."""

    text: str

    @property
    def needs_previous(self) -> bool:
        return "previous" in _variables(_TEXTS.sub(" ", self.text))

    def holds(self, resource: Values) -> bool:
        """Whether the expression comes to true; what fails on this content is not true of it."""
        try:
            result = _compiled(self.text)(resource, _context(resource))
        except Exception:  # the library's own are of many kinds, and a message must not suffer from a rule
            return False
        return isinstance(result, list) and len(result) == 1 and result[0] is True


def path_of(text: str, resource: str = "") -> Path:
    """A rule for resources of this type; raises NotEvaluable, saying why."""
    if len(text) > LONGEST:
        raise NotEvaluable(f"is longer than {LONGEST} characters.")
    bare = _TEXTS.sub(" ", text)
    used = set(_FUNCTION.findall(bare)) - _WORDS
    if used & CLOCK:
        raise NotEvaluable(f"uses {', '.join(sorted(used & CLOCK))}(): a rule must not depend on the time of asking.")
    if used & NOT_OURS:
        raise NotEvaluable(f"uses {', '.join(sorted(used & NOT_OURS))}(), which needs more than the message.")
    unknown = _variables(bare) - VARIABLES
    if unknown:
        raise NotEvaluable(f"uses %{sorted(unknown)[0][:40]}; known are %current, %previous and %resource.")
    try:
        empty = {"resourceType": resource or "Resource"}
        _compiled(text)(empty, _context(empty))
    except ImportError:  # a broken installation is nobody's rule
        raise
    except Exception as error:
        raise NotEvaluable(f"is no FHIRPath that can be evaluated: {str(error)[:200]}.") from None
    return Path(text)


def _context(resource: Values) -> dict[str, Any]:
    return {"current": resource, "previous": [], "resource": resource, "rootResource": resource}


def _variables(bare: str) -> set[str]:
    return {one or two or three for one, two, three in _VARIABLE.findall(bare)}


@lru_cache(maxsize=512)  # topics are few, and known at the start
def _compiled(text: str) -> Evaluate:
    import fhirpathpy  # 25 ms and 4 MiB that a broker without such rules does not spend

    compiled: Evaluate = fhirpathpy.compile(text)
    return compiled

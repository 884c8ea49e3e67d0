"""What a migration measures, as its status tells it: who uses which version, and how both compare; all of them are messages."""

from datetime import datetime
from typing import Any, Literal

from pgduet.acts import Message


class Client(Message):
    """Somebody who uses a version (census)."""

    who: str
    version: str
    side: Literal["old", "new"]
    via: str
    last_seen: datetime
    sessions: int = 1


class Parity(Message):
    """The last full comparison of both representations."""

    checked_at: datetime
    rows: int
    mismatches: int
    violations: int = 0
    repaired: int = 0
    fresh: bool = True
    examples: list[dict[str, Any]] = []
    """Keys of rows that differ, with the kind and PostgreSQL's reason; at most 20."""


class ShadowResult(Message):
    """Reads through both versions, compared and timed; latencies are medians in milliseconds."""

    comparable: bool = True
    """False where no table is in both versions and changed."""
    samples: int = 0
    mismatches: int = 0
    old_ms: float | None = None
    new_ms: float | None = None
    examples: list[dict[str, Any]] = []


class Traffic(Message):
    """What routers reported since a step began, and the engine's own probe of both versions."""

    routers: int = 0
    reads_old: int = 0
    reads_new: int = 0
    errors_old: int = 0
    errors_new: int = 0
    old_ms: float | None = None
    new_ms: float | None = None

    def since(self, before: "Traffic") -> "Traffic":
        """Give what came after an earlier measurement: counters grow, latencies are as they are."""
        counters = ("reads_old", "reads_new", "errors_old", "errors_new")
        grown = {name: max(0, getattr(self, name) - getattr(before, name)) for name in counters}
        return self.model_copy(update=grown)

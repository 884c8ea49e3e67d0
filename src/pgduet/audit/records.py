"""What goes into the log and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One act or decision: who did what to which migration, what it touched, why, and what had been measured.

    `affected` and `evidence` are JSON objects; see `canonical.plain` for what becomes of values JSON cannot hold. Never
    a secret.
    """

    actor: str
    action: str
    migration: str | None = None
    affected: Mapping[str, object] = field(default_factory=dict)
    reason: str | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an entry stands in the chain: its number from 1, and its hash in hex; worth keeping elsewhere."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that an untouched log does not have, and the entry at which it shows."""

    seq: int
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of the whole chain found; `head_*` is the last entry read, 0 and zeros when there is none."""

    entries: int
    head_seq: int
    head_hash: str
    problems: list[Problem]

    @property
    def intact(self) -> bool:
        """Tell whether nothing was found."""
        return not self.problems

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
class Anchor:
    """A head that was kept outside the database; `where` as in "the head kept outside"."""

    seq: int
    hash: str
    where: str = "kept outside"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that an untouched log does not have, and the entry at which it shows."""

    seq: int
    what: str
    kind: str = ""
    """edited, missing, order, fork, head or anchor."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of the whole chain found; `head_*` is the last entry read, 0 and zeros when there is none."""

    entries: int
    head_seq: int
    head_hash: str
    problems: list[Problem]
    """The first ones; `found` counts all."""
    found: int = 0
    doubtful_from: int | None = None
    """The first entry that cannot be trusted."""
    agreed: int = 0
    """How many anchors are in the chain as they were kept."""
    anchored_to: int = 0
    """The last entry that an anchor vouches for."""

    @property
    def intact(self) -> bool:
        """Tell whether nothing was found."""
        return not self.problems

"""How hard a backfill may work: what the plan says, what an operator has said since, and what clients leave it."""

from dataclasses import dataclass, replace
from typing import Any, Self

from pgduet.plan.models import Policy
from pgduet.windows import Window


@dataclass(frozen=True, slots=True)
class Pace:
    """Limits of a backfill: milliseconds, seconds, megabytes, times of day."""

    target_ms: float
    pause_ms: float
    max_replica_lag_s: float
    max_wal_retained_mb: float
    max_client_slowdown: float
    window: Window | None = None

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """Take the plan's pace."""
        wanted = policy.backfill
        return cls(
            wanted.batch_target_ms,
            wanted.pause_ms,
            wanted.max_replica_lag_s,
            wanted.max_wal_retained_mb,
            wanted.max_client_slowdown,
            wanted.window,
        )

    def adjusted(self, controls: dict[str, Any]) -> "Pace":
        """Lay an operator's throttle over it."""
        window = controls.get("window", self.window)
        if isinstance(window, dict):
            window = Window.model_validate(window)
        return Pace(
            controls.get("batch_target_ms", self.target_ms),
            controls.get("pause_ms", self.pause_ms),
            controls.get("max_replica_lag_s", self.max_replica_lag_s),
            controls.get("max_wal_retained_mb", self.max_wal_retained_mb),
            controls.get("max_client_slowdown", self.max_client_slowdown),
            None if window == "none" else window,
        )

    def eased(self, share: float) -> "Pace":
        """Give way to clients: smaller batches, longer pauses."""
        return replace(
            self, target_ms=max(SHORTEST_MS, self.target_ms * share), pause_ms=max(1.0, self.pause_ms) / share
        )

    def beside_clients(self, share: float) -> "Pace":
        """Work in smaller batches beside clients: what one of them does not get meanwhile is soon made up for."""
        return replace(self, target_ms=min(self.target_ms, max(SMALL_MS, self.target_ms * share)))


def growth(target_ms: float, took_ms: float, most: float = 2.0) -> float:
    """Tell by how much the next batch is larger than one that took so long: half of it, or `most` times as much."""
    return min(most, max(0.5, target_ms / max(took_ms, 0.1)))


SHORTEST_MS = 2.0
SMALL_MS = 5.0
"""Below this a batch costs more than it does."""

"""How often a soak takes its census: rarely while nothing is decided and nobody comes or goes, often where the decision is made.

A census sees who uses a version at that instant, so a rare client is found by looking often. What it finds decides only at the end
of the window, and reaches back `legacy_idle_s` from there: in that time it is taken every 30 s, and so it is at first and whenever
somebody came or went. Before that each quiet census doubles the pause, up to `census_every_s`, and never to more than a small share
of the window: a soak of weeks is thousands of censuses, not a hundred thousand. Pure; begins anew when a workflow continues as new.
"""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import CensusResult
    from pgduet.plan.policy import Soak

CENSUS_EVERY_S = 30.0
SHORTEST_S = 0.5
CENSUSES_OF_A_WINDOW = 500


class CensusPace:
    """Tells, after each census, how long to wait for the next one."""

    def __init__(self, soak: Soak) -> None:
        """Begin at the closest pace."""
        self.idle_s = soak.legacy_idle_s
        self.closest_s = min(CENSUS_EVERY_S, max(SHORTEST_S, soak.legacy_idle_s))
        self.widest_s = max(self.closest_s, min(soak.census_every_s, soak.window_s / CENSUSES_OF_A_WINDOW))
        self.quiet_s = self.closest_s
        self.who: set[str] | None = None

    def pause_s(self, census: CensusResult, left_s: float) -> float:
        """Give the pause after a census, with `left_s` seconds of the window left (none or less: it is over)."""
        who = {f"{client.side} {client.who}" for client in census.clients}
        self.quiet_s = min(self.widest_s, 2 * self.quiet_s) if who == self.who else self.closest_s
        self.who = who
        if left_s <= 0:
            return self.closest_s
        early_s = left_s - self.idle_s
        return min(left_s, max(self.closest_s, min(self.quiet_s, early_s)))

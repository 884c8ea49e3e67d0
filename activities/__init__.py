"""Activities: one module for each phase, do and undo side by side. `build` makes them for a worker."""

from collections.abc import Callable
from typing import Any

from pgduet.activities.auditing import Auditing
from pgduet.activities.backfill import Backfill
from pgduet.activities.contract import Contract
from pgduet.activities.cutover import Cutover
from pgduet.activities.draining import Drains
from pgduet.activities.dual_write import DualWrite
from pgduet.activities.engine import Engine
from pgduet.activities.expand import Expand
from pgduet.activities.neighbours import Neighbours
from pgduet.activities.preflight import Preflight
from pgduet.activities.reconcile import Reconciling
from pgduet.activities.record import Bookkeeping
from pgduet.activities.report import Reporting
from pgduet.activities.shadow import Shadow
from pgduet.activities.shift import Shift
from pgduet.activities.verify import Verify
from pgduet.postgres.databases import Databases

ACTIVITIES = (
    Preflight,
    Expand,
    DualWrite,
    Backfill,
    Verify,
    Shadow,
    Shift,
    Cutover,
    Contract,
    Bookkeeping,
    Neighbours,
    Reconciling,
    Auditing,
    Reporting,
    Drains,
)


def build(databases: Databases) -> list[Callable[..., Any]]:
    """Make every activity for a worker that can reach these databases."""
    engine = Engine(databases)
    made = [kind(engine) for kind in ACTIVITIES]
    return [
        member
        for instance in made
        for name in dir(instance)
        if hasattr(member := getattr(instance, name), "__temporal_activity_definition")
    ]

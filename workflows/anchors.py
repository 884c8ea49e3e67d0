"""Anchors: a migration keeps the heads of the audit log outside the database, in the memo of its own workflow.

One head for each entry that a decision of the workflow wrote (a phase entered, an undo, the end), so that an edit of the
database alone is noticed by `pgduet audit verify`. The number of heads is bounded by the journey, not by rows or time.
Limits: entries of batches, bakes and acts are vouched for by the next phase's head only. Continue-as-new does not hand a
changed memo over by itself: `memo` is for that. Runs that began before there were anchors go on without.
"""

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.audits import ANCHORS

_PATCH = "audit-anchors"


def anchor(head: str | None) -> None:
    """Keep a head, unless it is kept already."""
    kept = _kept()
    if head and head not in kept and workflow.patched(_PATCH):
        workflow.upsert_memo({ANCHORS: [*kept, head]})


def memo() -> dict[str, Any] | None:
    """Give the memo that the next run should begin with; None leaves it to Temporal."""
    kept = _kept()
    return {**workflow.memo(), ANCHORS: kept} if kept else None


def _kept() -> list[str]:
    """Read what is kept; whatever somebody else put there is not, and must not fail the workflow."""
    try:
        found = workflow.memo_value(ANCHORS, [])
    except Exception:  # noqa: BLE001  a converter may raise anything
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []

"""How shapes run statements: under the lock budget, with audit entry and marks in the same transaction, and barriers."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pgduet.activities.engine import Work
from pgduet.barriers import reach
from pgduet.messages import LockWait
from pgduet.operations.statement import Statement
from pgduet.postgres import store
from pgduet.postgres.session import Connection


async def locked(
    work: Work,
    statements: Sequence[Statement],
    step: str,
    label: str,
    marks: dict[str, object] | None = None,
    **affected: object,
) -> int:
    """Run statements on a table in one transaction; `step` names its audit entry and its barriers. Returns the tries."""

    async def also(conn: Connection) -> None:
        work.beat.note = f"{step}: {label}"
        if marks:
            await store.set_controls(conn, work.migration.id, marks)
        await store.audited(conn, work.reference, step, affected={"table": label, **affected})
        await reach(f"{step}.before_commit")

    tries = await work.locked(list(statements), also)
    await reach(f"{step}.after_commit")
    return tries


async def marked(work: Work, name: str) -> bool:
    """Tell whether a mark has been set."""
    return bool((await store.controls(work.conn, work.migration.id)).get(name))


async def is_contracted(work: Work, label: str) -> bool:
    """Tell whether contract has given a table its final shape."""
    return await marked(work, f"contracted {label}")


def waiting(work: Work, what: str, since: datetime | None = None) -> datetime:
    """Say in the heartbeat for whom a step waits; returns since when. `work.beat.progress = None` says that it does no more."""
    since = since or datetime.now(UTC)
    work.beat.progress = LockWait(waits_for_lock=what, since=since)
    return since

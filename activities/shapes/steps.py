"""How shapes run statements: under the lock budget, with audit entry and marks in the same transaction, and barriers."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pgduet.activities.engine import Work
from pgduet.barriers import reach
from pgduet.messages import LockWait
from pgduet.operations.statement import Statement
from pgduet.phases import SyncMode
from pgduet.postgres import store
from pgduet.postgres.session import Connection

Judged = Callable[[Connection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """What the audit log calls a step, the barriers around its commit, and the form that the sync has from then on."""

    action: str
    barrier: str
    mode: SyncMode | None = None


EXPAND = Step("expand", "expand")
UNDO_EXPAND = Step("undo_expand", "undo_expand")
DUAL_WRITE = Step("dual_write", "dual_write", SyncMode.FILL)
UNDO_DUAL_WRITE = Step("undo_dual_write", "undo_dual_write")
SECURE = Step("secure", "secure")
PARTITIONS = Step("partitions", "partitions")
BOTH_WAYS = Step("both_ways", "publish", SyncMode.BOTH)
DECLARE = Step("declare", "constraint")
RELEASE = Step("release", "constraint")
CONTRACT = Step("contract_table", "contract")


async def locked(
    work: Work,
    statements: Sequence[Statement],
    step: Step,
    label: str,
    marks: dict[str, object] | None = None,
    *,
    judged: Judged | None = None,
) -> int:
    """Run statements on a table in one transaction, and leave an entry in the audit log; returns the tries that it took.

    What is `judged` under the locks may refuse all of it.
    """

    async def also(conn: Connection) -> None:
        work.beat.note = f"{step.action}: {label}"
        if judged:
            await judged(conn)
        if marks:
            await store.set_controls(conn, work.migration.id, marks)
        if step.mode:
            await store.run(conn, "set_mode", {"id": work.migration.id, "mode": step.mode})
        await store.audited(conn, work.reference, step.action, affected={"table": label})
        await reach(f"{step.barrier}.before_commit")

    tries = await work.locked(list(statements), also)
    await reach(f"{step.barrier}.after_commit")
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

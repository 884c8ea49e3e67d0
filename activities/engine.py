"""What every activity stands on: a session for its migration, heartbeats while it works, errors in Temporal's terms."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from pydantic import BaseModel
from temporalio import activity
from temporalio.exceptions import ApplicationError, FailureError

from pgduet.errors import LockDeadline, PgduetError
from pgduet.messages import LockWait, Reference
from pgduet.operations.statement import Statement
from pgduet.postgres import store
from pgduet.postgres.blockers import Blockers
from pgduet.postgres.databases import Databases
from pgduet.postgres.executor import LockBudget, execute_locked, is_transient, locks_of
from pgduet.postgres.session import Connection, session, told
from pgduet.telemetry import metrics, spans, subject
from pgduet.texts import FACT_CHARS, bounded, cut

HEARTBEAT_S = 0.5


@dataclass
class Beat:
    """What the next heartbeat tells; `note` is for people, `progress` for whoever resumes."""

    note: str | None = None
    progress: BaseModel | None = None


@dataclass
class Work:
    """One activity at work on one migration."""

    conn: Connection
    migration: store.Migration
    reference: Reference
    purpose: str
    beside: Callable[[], AbstractAsyncContextManager[Connection]]
    """Opens a second session, for looking at the first one while it is busy."""
    beat: Beat = field(default_factory=Beat)

    async def locked(self, statements: list[Statement], also: Callable[[Connection], Awaitable[None]]) -> int:
        """Run statements under the plan's lock budget; returns the tries that it took, and leaves them in the audit log.

        That entry is a measurement, so it follows the commit: no client waits behind it.
        """
        policy = self.migration.policy
        since = datetime.now(UTC)
        failed = 0
        held_at = began = time.monotonic()

        def held() -> None:
            nonlocal held_at
            held_at = time.monotonic()

        def wait(who: Blockers) -> None:
            nonlocal failed
            failed += 1
            metrics.gave_way()
            spans.happened("lock wait")
            self.beat.progress = LockWait(waits_for_lock=who.text, since=since, ending=list(who.ending))
            activity.heartbeat(self.beat.progress)

        budget = LockBudget(policy.lock_timeout_ms, policy.lock_deadline_s)
        with spans.span("table lock", statements=len(statements)) as seen:
            try:
                tries = await execute_locked(self.conn, statements, budget, also=also, on_wait=wait, on_held=held)
            except LockDeadline:
                await self._measured(statements, failed, time.monotonic() - began, None)
                raise
            ended = time.monotonic()
            seen.set_attribute("pgduet.tries", tries)
        metrics.locked(ended - began, tries)
        await self._measured(statements, tries, held_at - began, ended - held_at)
        self.beat.progress = None
        return tries

    async def _measured(self, statements: list[Statement], tries: int, waited_s: float, held_s: float | None) -> None:
        """Write down what a step's locks cost; `held_s` is None where they were never had."""
        locks = locks_of(statements)
        if not locks:
            return
        evidence: dict[str, object] = {
            "tries": tries,
            "waited_ms": round(waited_s * 1000, 1),
            "taken": held_s is not None,
        }
        if held_s is not None:
            evidence["held_ms"] = round(held_s * 1000, 1)
        affected: dict[str, object] = {"step": self.purpose, "locks": {name: str(lock) for name, lock in locks.items()}}
        async with self.conn.transaction():
            await store.audited(self.conn, self.reference, "lock", affected=affected, evidence=evidence)


class Engine:
    """Opens sessions for activities; the only thing they share."""

    def __init__(self, databases: Databases) -> None:
        """Take the databases that this worker can reach."""
        self.databases = databases

    @asynccontextmanager
    async def connection(self, database: str, purpose: str, *, bare: bool = False) -> AsyncIterator[Connection]:
        """Open a session by a database's logical name; errors come out in Temporal's terms."""
        async with translated(), session(self.databases.resolve(database), purpose, bare=bare) as conn:
            yield conn

    @asynccontextmanager
    async def work(self, reference: Reference, purpose: str, *, alone: bool = False) -> AsyncIterator[Work]:
        """Open a session for a migration, and heartbeat until it closes.

        With `alone`, no other step of the migration that asks for the same can run: a worker that was given up for dead and
        comes to itself in a critical place finds its session gone, or is waited for.
        """
        async with self.connection(reference.database, f"{purpose}/{reference.name}") as conn:
            if alone:
                await _be_alone(conn, reference.migration_id)
            work = Work(
                conn,
                await store.migration(conn, reference),
                reference,
                purpose,
                beside=lambda: session(self.databases.resolve(reference.database), f"watch/{reference.name}"),
            )
            _tell(work.migration)
            async with beating(work.beat):
                yield work


@asynccontextmanager
async def beating(beat: Beat | None = None) -> AsyncIterator[None]:
    """Heartbeat until the block ends."""
    task = asyncio.create_task(_keep_beating(beat or Beat()))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn errors into Temporal's: ours by class name with their fields, PostgreSQL's by whether another try can help.

    Any other error is a fault of ours: it would come back at every try, so somebody is told instead. Its text stays out, since
    it may quote a row.
    """
    try:
        yield
    except PgduetError as error:
        raise ApplicationError(
            cut(error.render()), bounded(error.facts()), type=type(error).__name__, non_retryable=not error.retryable
        ) from None
    except psycopg.Error as error:
        reason = cut(told(error), FACT_CHARS)
        raise ApplicationError(reason, type=type(error).__name__, non_retryable=not is_transient(error)) from None
    except (FailureError, OSError):  # Temporal's own, and the network's, which another try may find mended
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, somebody must hear of it)
        raise ApplicationError(_fault(error), type="Fault", non_retryable=True) from None


def _fault(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    where = (ours or frames)[-1]
    return f"a fault in pgduet: {type(error).__name__} in {where.name} ({Path(where.filename).name}:{where.lineno})"


async def _be_alone(conn: Connection, migration_id: int) -> None:
    """Take the migration's lock for this session; an earlier try of the same step loses it with its session."""
    while not (await store.run(conn, "try_alone", {"id": migration_id}))[0]["alone"]:
        if activity.info().attempt > 1:
            await store.run(conn, "end_holder", {"id": migration_id})
        activity.heartbeat("waits for an earlier step to end")
        await asyncio.sleep(HEARTBEAT_S)


def _tell(found: store.Migration) -> None:
    """Tell telemetry where the migration stands."""
    subject.in_phase(found.phase)
    metrics.stands(found.phase, found.authority, found.sync_mode)
    if found.parity:
        store.tell_parity(found.parity)
    metrics.routed(found.read_percent)
    metrics.bears(found.policy.verify.max_drift_rows)


async def _keep_beating(beat: Beat) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        activity.heartbeat(beat.progress or beat.note)

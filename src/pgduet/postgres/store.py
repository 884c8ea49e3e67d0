"""The state of migrations in `pgduet.migration` and its neighbours: rows in, models out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from pgduet.audit import Entry, append
from pgduet.errors import MissingRights, UnknownMigration
from pgduet.messages import Abort, Reference
from pgduet.operations.design import Design, TableDesign
from pgduet.phases import Authority, Phase, State, SyncMode
from pgduet.plan.models import Plan, Policy
from pgduet.postgres.executor import LockBudget, execute_locked
from pgduet.postgres.session import Connection
from pgduet.sql import block, load
from pgduet.telemetry import metrics


@dataclass(frozen=True, slots=True)
class Migration:
    """A row of `pgduet.migration`, with its plan and design read."""

    id: int
    name: str
    attempt: int
    checksum: str
    phase: Phase
    ended: bool
    state: str
    authority: Authority
    sync_mode: SyncMode | None
    compensations: list[str]
    plan: Plan
    design: Design
    parity: dict[str, Any] | None
    no_return: bool
    paused: bool
    read_percent: int
    going_back: Abort | None

    @property
    def policy(self) -> Policy:
        """The plan's policy."""
        return self.plan.policy

    def table(self, label: str) -> TableDesign:
        """Find a table's design by its quoted name."""
        return next(table for table in self.design.tables if table.label == label)


async def run(conn: Connection, name: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Run a block of store.sql; rows if it gives any."""
    cursor = await conn.execute(block("store", name), parameters or {})
    return await cursor.fetchall() if cursor.description else []


async def is_set_up(conn: Connection) -> bool:
    """Tell whether the product's schemas and tables are there."""
    return bool((await run(conn, "is_set_up"))[0]["ready"])


async def set_up(conn: Connection) -> bool:
    """Create the product's schemas and tables where they are missing; tells whether anything had to be done.

    Raises:
        MissingRights: the role may not create schemas here.
        LockDeadline: an earlier release's tables are to be changed, and clients kept one of them for an hour.
    """
    if (await run(conn, "is_complete"))[0]["ready"]:
        return False
    allowed = await (
        await conn.execute("SELECT has_database_privilege(current_database(), 'CREATE') AS may, current_user AS role")
    ).fetchone()
    if allowed is None or not allowed["may"]:
        raise MissingRights(
            "the worker's role may not create schemas in this database",
            hint="Run `pgduet setup DATABASE --print-sql` and have its statements run by a superuser.",
        )
    # An upgrade changes tables that clients write to in their own transactions: no one queues behind it for longer than a try.
    await execute_locked(conn, (), LockBudget(), also=_make)
    return True


async def _make(conn: Connection) -> None:
    await conn.execute("SELECT pg_advisory_xact_lock(hashtext('pgduet.setup'))")
    for statements in (load("metadata")["create_metadata"], load("audit")["create_audit"]):
        await conn.execute(statements.encode())


async def latest(conn: Connection, name: str) -> Migration | None:
    """Find the newest run of a migration."""
    found = await run(conn, "latest", {"name": name})
    return _read(found[0]) if found else None


async def migration(conn: Connection, reference: Reference) -> Migration:
    """Find the run that an activity works for.

    Raises:
        UnknownMigration: it is not in this database (any more).
    """
    found = await run(conn, "by_id", {"id": reference.migration_id})
    if not found:
        raise UnknownMigration(f"{reference.name} is not in the metadata of {reference.database}")
    return _read(found[0])


async def audited(
    conn: Connection,
    reference: Reference,
    action: str,
    *,
    affected: dict[str, object] | None = None,
    evidence: dict[str, object] | None = None,
) -> str:
    """Append to the audit log, last in the transaction of the act; returns the new head as `seq:hash`."""
    receipt = await append(
        conn,
        Entry(
            actor=reference.actor,
            action=action,
            migration=reference.name,
            affected=affected or {},
            reason=reference.reason,
            evidence=evidence or {},
        ),
    )
    return f"{receipt.seq}:{receipt.hash}"


async def change_route(conn: Connection, reference: Reference, **changes: object) -> dict[str, Any]:
    """Change the route and wake the routers when the transaction commits."""
    values = {"read_percent": None, "authority": None, "published": None} | changes
    changed = await run(conn, "route_change", {"migration": reference.name, **values})
    await run(conn, "route_notify", {"migration": reference.name})
    if changed:
        metrics.routed(changed[0]["read_percent"])
    return changed[0] if changed else {}


async def set_comparing(conn: Connection, migration: str, *, comparing: bool) -> None:
    """Let routers read the side that does not answer, or stop them: before a version goes nobody may read it unasked."""
    if not (await run(conn, "can_compare"))[0]["can"]:
        return
    async with conn.transaction():
        if await run(conn, "route_compare", {"migration": migration, "comparing": comparing}):
            await run(conn, "route_notify", {"migration": migration})


async def note_drift(conn: Connection, migration_id: int, relation: str, key: object, kind: str, detail: str) -> None:
    """Note a row that needs a person's eye; once, however often it is met."""
    values = {"id": migration_id, "relation": relation, "key": Jsonb(key), "kind": kind, "detail": detail}
    await run(conn, "drift_add", values)


async def controls(conn: Connection, migration_id: int) -> dict[str, Any]:
    """Read what has been set and noted beside a migration: pace, pause, what of it is ours."""
    found: dict[str, Any] = (await run(conn, "controls", {"id": migration_id}))[0]["controls"]
    return found


async def set_controls(
    conn: Connection, migration_id: int, controls: dict[str, Any], *, reset: Sequence[str] = ()
) -> None:
    """Change pace or pause; what is in `reset` is taken away before."""
    await run(conn, "set_controls", {"id": migration_id, "controls": Jsonb(controls), "reset": list(reset)})


async def save_parity(conn: Connection, migration_id: int, parity: dict[str, Any]) -> None:
    """Keep the last comparison."""
    await run(conn, "set_parity", {"id": migration_id, "parity": Jsonb(parity)})
    tell_parity(parity)


def tell_parity(parity: dict[str, Any]) -> None:
    """Tell telemetry what a comparison found; one that was kept by an earlier version knows no aggregates."""
    groups = sum(each["differing"] for each in parity.get("aggregates", []))
    checked_at = datetime.fromisoformat(parity["checked_at"]).timestamp()
    metrics.compared(parity["rows"], parity["mismatches"], groups, checked_at=checked_at)


def going_back(controls: dict[str, Any], state: str) -> Abort | None:
    """Read the decision to roll back, which stands from before the first undo until the end."""
    if raw := controls.get("going_back"):
        return Abort.model_validate(raw)
    return Abort() if state == State.ROLLING_BACK else None


def _read(row: dict[str, Any]) -> Migration:
    return Migration(
        id=row["id"],
        name=row["name"],
        attempt=row["attempt"],
        checksum=row["checksum"],
        phase=Phase(row["phase"]),
        ended=row["ended_at"] is not None,
        state=row["state"],
        authority=Authority(row["authority"]),
        sync_mode=SyncMode(row["sync_mode"]) if row["sync_mode"] else None,
        compensations=list(row["compensations"]),
        plan=Plan.model_validate(row["plan"]),
        design=Design.model_validate(row["design"]),
        parity=row["parity"],
        no_return=bool(row["controls"].get("no_return")),
        paused=bool(row["controls"].get("paused")),
        read_percent=row["read_percent"] or 0,
        going_back=going_back(row["controls"], row["state"]),
    )
